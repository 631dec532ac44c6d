"""What holds until the server serves: its port is taken, and a signal ends the start at once."""

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
    """A socket that has the port, a free one for 0, so that nobody else can take it while the model loads.

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
    """From now on, until the server takes the signals over to finish its requests first."""

    first = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        ignore_signals()
        try:
            if os.getpid() == first:  # not one that it has forked and that has no handlers of its own yet
                clean_up()
                os.write(2, b"phi-vision serve: stopped before it was ready\n")  # `sys.stderr` may be at work
                sys.stdout.flush()
        finally:
            os._exit(_EXIT_CODES[signal.Signals(number)])  # an exception is lost where libraries catch it

    for number in _EXIT_CODES:
        signal.signal(number, end)


def end_children() -> None:
    """Kill all processes below this one.

    Not Python's resource tracker: when they have ended it removes their shared memory, and ends too.
    """
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not any("multiprocessing.resource_tracker" in part for part in child.cmdline()):
                child.kill()
    for process in multiprocessing.active_children():
        process.join(_KILLED_WITHIN_S)


def ignore_signals() -> None:
    """From now on this process ends by itself."""
    for number in _EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
