"""Log lines of any logger and formatter: no pictures, no control characters, no keys of query strings."""

from __future__ import annotations

import base64
import io
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from phi_vision import serving
from phi_vision.serving.log_redaction import CleanRecords
from phi_vision.serving.vllm_compat import log_records
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import AccessFormatter
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging
from vllm.logging_utils import ColoredFormatter, NewLineFormatter

from tests.support.pictures import data_url, encoded, reference_picture

PICTURE = encoded(reference_picture(60, 40, seed=2))
ESCAPES = "a\x1b[2J\x1b]0;owned\x07b\r\u202ec\x9b31m\ud800"
ANY_LOGGER = ["vllm.entrypoints.x", "uvicorn.error", "asyncio", "some.library"]


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    """In this process for one test; vLLM's own factory is in between, as in the server."""
    before = logging.getLogRecordFactory()
    log_records.install()
    configure_logging(LoggingConfig())
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


@contextmanager
def lines(
    name: str, formatter: logging.Formatter | None = None
) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and what it writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger, written
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def assert_harmless(text: str) -> None:
    assert not {sign for sign in text if ord(sign) < 32 or 126 < ord(sign) < 160 or ord(sign) > 0x2000} - {
        "\n"
    }, text


def test_installing_again_changes_nothing() -> None:
    log_records.install()
    factory: Any = logging.getLogRecordFactory()
    log_records.install()
    assert logging.getLogRecordFactory() is factory
    chain = []
    link: Any = factory
    while link is not None:
        chain.append(type(link))
        link = getattr(link, "_factory", None)
    assert chain.count(CleanRecords) == 1


def test_each_process_of_vllms_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's too: this is the plugin that vLLM loads everywhere. Forked processes have the factory."""
    monkeypatch.setattr(logging, "getLogRecordFactory", lambda: logging.LogRecord)
    made: list[object] = []
    monkeypatch.setattr(logging, "setLogRecordFactory", made.append)
    serving.register_model()
    assert [type(factory) for factory in made] == [CleanRecords]


@pytest.mark.parametrize("name", ANY_LOGGER)
def test_escapes_of_arguments_exceptions_and_messages_do_not_reach_the_terminal(name: str) -> None:
    with lines(name) as (logger, written):
        logger.warning("request %s from %r: %d", ESCAPES, ESCAPES, 7)
        logger.warning("%(id)s", {"id": ESCAPES})
        logger.warning("an object %s", [ValueError(ESCAPES)])
        logger.warning(f"in the message {ESCAPES}")
        try:
            raise ValueError(ESCAPES)
        except ValueError:
            logger.exception("failed")
    assert_harmless(written.getvalue())
    assert written.getvalue().count("owned") == 6 and "ValueError: a" in written.getvalue()


def test_arguments_cannot_forge_a_line_but_a_message_has_several() -> None:
    with lines("vllm.x") as (logger, written):
        logger.warning("model %s", "x\nERROR forged")
        logger.warning("a table\nof %s", "lines")
    assert written.getvalue() == "model x\\nERROR forged\na table\nof lines\n"


def test_formatters_and_numbers_work_as_before() -> None:
    class Number:
        def __int__(self) -> int:
            return 3

        def __float__(self) -> float:
            return 3.5

    with lines("vllm.x", ColoredFormatter("%(levelname)s %(message)s")) as (logger, written):
        logger.warning("%d %.1f %5.2f %s %s %5s|", Number(), Number(), 2, None, True, "x")
        logger.warning("\x1b[1mlogo\x1b[0m %s", "1.0")
    first, second = written.getvalue().splitlines()
    assert first.endswith(" 3 3.5  2.00 None True     x|") and second.endswith("\x1b[1mlogo\x1b[0m 1.0")
    assert first.startswith("\x1b[33mWARNING")  # the colours are the formatter's own


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/models?api_key=sk-secret", "/v1/models?api_key=***"),
        ("/v1/models?sk-secret", "/v1/models?***"),
        ("/x?a=secret&b&c=d=secret", "/x?a=***&***&c=***"),
        ("/x?a=secret?b=secret", "/x?a=***"),
        ("/%1B%5B2J", "/%1B%5B2J"),
        ("/v1/models", "/v1/models"),
    ],
)
def test_keys_in_query_strings_are_cut_out_of_the_access_log(path: str, shown: str) -> None:
    formatter = AccessFormatter(LOGGING_CONFIG["formatters"]["access"]["fmt"], use_colors=False)
    with lines("uvicorn.access", formatter) as (logger, written):
        logger.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", path, "1.1", 200)
    assert written.getvalue() == f'INFO:     127.0.0.1:1 - "GET {shown} HTTP/1.1" 200 OK\n'
    with lines("uvicorn.error") as (logger, written):
        logger.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:1", path)
    assert "secret" not in written.getvalue()


MIME = base64.encodebytes(PICTURE).decode()


@pytest.mark.parametrize("name", ANY_LOGGER)
@pytest.mark.parametrize(
    ("message", "argument"),
    [
        ("body: %s", {"url": data_url(PICTURE), "text": "kept"}),
        ("body: %s", [{"data": base64.b64encode(PICTURE).decode(), "text": "kept"}]),
        ("body: %s", {"data": MIME, "text": "kept"}),
        ("body: %s", {"url": "data:image/png;base64," + MIME, "text": "kept"}),
        ("kept " + data_url(PICTURE), None),
        ("kept " + MIME, None),
    ],
)
def test_pictures_are_cut_out(name: str, message: str, argument: object) -> None:
    with lines(name, NewLineFormatter("%(message)s")) as (logger, written):
        logger.warning(message, *([] if argument is None else [argument]))
    written_text = written.getvalue()
    assert "characters>" in written_text and "kept" in written_text
    for start in range(0, len(PICTURE) - 60, 60):
        assert base64.b64encode(PICTURE)[start : start + 30].decode() not in written_text


def test_other_lines_stay_as_they_are() -> None:
    path = (
        "/home/somebody/.cache/huggingface/hub/models--microsoft--Phi-3.5-vision-instruct/snapshots/"
        + "a" * 40
    )
    for text in (path, "0123456789abcdef" * 4, "x" * 99, "a prompt of many words " * 40):
        with lines("vllm.some.module") as (logger, written):
            logger.warning("%s", text)
        assert written.getvalue() == text + "\n"
