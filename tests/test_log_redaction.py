"""Pictures stay out of vLLM's log lines, also after vLLM has set up its handlers anew."""

import base64
import logging

import pytest
from phi_vision.plugins import log_redaction
from pictures import data_url, encoded, reference_picture
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging

PICTURE = encoded(reference_picture(60, 40, seed=2))


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.mark.parametrize("message", ["body: %s", "no arguments: " + data_url(PICTURE)])
def test_pictures_are_cut_out(message: str) -> None:
    log_redaction.install()
    configure_logging(LoggingConfig())
    handler = Lines()
    logger = logging.getLogger("vllm.entrypoints.serve.utils.request_logger")
    logger.addHandler(handler)
    try:
        logger.warning(message, *([{"url": data_url(PICTURE), "text": "kept"}] if "%s" in message else []))
    finally:
        logger.removeHandler(handler)
    (line,) = handler.lines
    assert base64.b64encode(PICTURE).decode()[:60] not in line
    assert "characters>" in line and "data:image/png;base64," in line
    assert "kept" in line or "no arguments" in line


def test_other_lines_stay_as_they_are() -> None:
    log_redaction.install()
    path = (
        "/home/somebody/.cache/huggingface/hub/models--microsoft--Phi-3.5-vision-instruct/snapshots/"
        + "a" * 40
    )
    for text in (path, "0123456789abcdef" * 4, "x" * 99, "a prompt of many words " * 40):
        handler = Lines()
        logger = logging.getLogger("vllm.some.module")
        logger.addHandler(handler)
        logger.warning("%s", text)
        logger.removeHandler(handler)
        assert handler.lines == [text]
