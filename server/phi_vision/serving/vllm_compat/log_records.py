"""Redact log records where they are made.

Symptom: pictures, keys and escape sequences in the log, although a filter or formatter was set.
Cause: vLLM and uvicorn replace handlers more than once, in forked processes too, and have formatters that
read a record's arguments. So records are cleaned by the factory that makes them, which vLLM replaces too: its
own keeps the one before it as `_factory`.
Can go: when vLLM takes a logging configuration that reaches all of its processes.
"""

from __future__ import annotations

import logging
from typing import Any

from phi_vision.serving.log_redaction import CleanRecords


def install() -> None:
    """For this process, once."""
    factory: Any = logging.getLogRecordFactory()
    while factory is not None:
        if isinstance(factory, CleanRecords):
            return
        factory = getattr(factory, "_factory", None)
    logging.setLogRecordFactory(CleanRecords(logging.getLogRecordFactory()))
