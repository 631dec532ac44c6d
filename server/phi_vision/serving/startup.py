"""From the command to the running server: the port is reserved, and a signal ends the start at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import psutil

from phi_vision.errors import UsageError

_KILLED_WITHIN_S = 5
_EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}  # a start that is told to stop has not failed


def listen(host: str, port: int) -> socket.socket:
    """Reserve the port with a bound socket, so that no other program takes it while the model loads.

    Port 0 is any free one.

    Raises:
        UsageError: the port is taken, or the address is not this machine's.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections may linger
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    return opened


def end_at_once_on_signals(clean_up: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT end the process at once, until the server installs handlers of its own.

    Args:
        clean_up: called first, in this process only.
    """

    first = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        ignore_signals()
        try:
            if os.getpid() == first:  # a forked child has these handlers too, until it sets its own
                clean_up()
                line_break = b"\n" if os.isatty(2) else b""  # a bar and ^C may stand there
                os.write(2, line_break + b"phi-vision serve: stopped before it was ready\n")  # no lock
                sys.stdout.flush()
        finally:
            os._exit(_EXIT_CODES[signal.Signals(number)])  # an exception is lost where libraries catch it

    for number in _EXIT_CODES:
        signal.signal(number, end)


def end_children() -> None:
    """Kill all descendants of this process but Python's resource tracker.

    The tracker removes their shared memory when they have ended, and then ends itself.
    """
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not any("multiprocessing.resource_tracker" in part for part in child.cmdline()):
                child.kill()
    for process in multiprocessing.active_children():
        process.join(_KILLED_WITHIN_S)


def ignore_signals() -> None:
    """Ignore SIGTERM and SIGINT: this process is about to end by itself."""
    for number in _EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
