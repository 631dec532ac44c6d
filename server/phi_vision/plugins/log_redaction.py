"""Keep pictures out of the log. vLLM's request logging writes whole bodies, base64 and all."""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

_SHORTEST = 100  # characters; no picture is shorter, hashes are
_BASE64 = re.compile(rf"[A-Za-z0-9+/]{{{_SHORTEST},}}={{0,2}}")


@functools.cache
def install() -> None:
    """For all of vLLM's loggers in this process, ours among them.

    On the making of records: vLLM replaces its handlers, and their filters with them, more than once.
    """
    make_record = logging.getLogRecordFactory()

    def redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if record.name.startswith("vllm"):
            message = record.getMessage()
            if len(message) >= _SHORTEST:
                record.msg = _BASE64.sub(lambda run: f"<{len(run[0])} characters>", message)
                record.args = ()
        return record

    logging.setLogRecordFactory(redacted)
