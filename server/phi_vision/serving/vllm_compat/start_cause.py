"""Record why the engine's process failed to start, for the launcher to read.

Symptom: the server says "Engine core initialization failed. See root cause above" and no more.
Cause: the engine fails in a process of its own, which logs the cause; the server learns only that it failed.
Can go: when vLLM hands the cause to the server.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

CAUSE_VARIABLE = "PHI_VISION_START_CAUSE"  # environment: the file that the launcher reads

MESSAGES = ("EngineCore failed to start", "WorkerProc failed to start")
# Loggers, not the handlers above them: on a GPU the engine's process is forked, so plugins do not load in it
# again, and it sets vLLM's handlers up anew.
LOGGERS = ("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor")


def install() -> None:
    """In each of vLLM's processes; does nothing until the launcher names a file."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_RecordCause())


class _RecordCause(logging.Filter):
    """Writes the error of a failed start to the file, and keeps its traceback out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        path = os.environ.get(CAUSE_VARIABLE)
        if path is None or not record.exc_info or not record.getMessage().startswith(MESSAGES):
            return True
        error = record.exc_info[1]
        if not Path(path).exists():  # the first failure is the cause; the others follow from it
            Path(path).write_text(f"{type(error).__name__}: {error}")
        if logging.getLogger("vllm").isEnabledFor(logging.DEBUG):
            return True
        sys.stderr = io.StringIO()  # this process ends now, and would print the same traceback once more
        return False
