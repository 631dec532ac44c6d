"""Keep pictures out of the log. vLLM's request logging writes whole bodies, base64 and all."""

from __future__ import annotations

import logging
import re

_SHORTEST = 100  # characters; no picture is shorter, hashes are
_BASE64 = re.compile(rf"[A-Za-z0-9+/]{{{_SHORTEST},}}={{0,2}}")


class _Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        redacted = _BASE64.sub(lambda run: f"<{len(run[0])} characters>", message)
        if redacted != message:
            record.msg, record.args = redacted, ()
        return True


def install() -> None:
    """On every handler of vLLM's loggers in this process; ours are among them."""
    for handler in logging.getLogger("vllm").handlers:
        handler.addFilter(_Redact())
