"""The cluster of a run: connected to without a word of Ray's own, or one line why not."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError

_CONNECT_TIMEOUT_S = 10.0
# What a client of gRPC sends first. The first frame of its server's answer is of type 4, SETTINGS.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HEAD = re.compile(r"\[?([^/\[\]]+)\]?:([0-9]{1,5})")
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's C++ half writes to stderr
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by default: a warning says so each time
}


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster for a while, in which what is printed goes to stderr.

    Args:
        address: `HOST:PORT` of its head; `auto`: that which this machine is a node of; `local`: one that is
            started here and ends with the run.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = _installed_ray()
    _check(address)
    more: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with _without_stderr():  # where the C++ half writes which log level it was given
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **more)
    except Exception as error:  # of many classes
        raise UsageError(f"no Ray cluster at --ray {one_line(address)}: {_reason(error)}") from error
    with redirect_stdout(sys.stderr):  # Ray tells there of processes that were lost, until it is shut down
        try:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors come as exceptions too
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield
        finally:
            ray.shutdown()


def num_gpus() -> int:
    """GPUs of the cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def _installed_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("--ray needs Ray: pip install 'phi-vision[ray]'") from error
    return ray


@contextmanager
def _without_stderr() -> Iterator[None]:
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check(address: str) -> None:
    """Ray itself waits for minutes where no Ray answers."""
    if address in ("auto", "local"):
        return
    head = _HEAD.fullmatch(address)
    if head is None:
        raise UsageError(f"--ray {one_line(address)} is not HOST:PORT of a cluster's head, auto or local")
    try:
        with socket.create_connection((head[1], int(head[2])), _CONNECT_TIMEOUT_S) as connection:
            connection.sendall(_PREFACE)
            if connection.recv(9)[3:4] != b"\4":
                raise OSError("what answers there is not Ray")
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"no Ray cluster at --ray {one_line(address)}: {one_line(str(reason))}") from error


def _reason(error: Exception) -> str:
    if "AuthenticationError" in str(error.__cause__ or error):  # Ray says that in twenty lines
        return "it takes no connection without its token: set $RAY_AUTH_MODE=token and $RAY_AUTH_TOKEN"
    return one_line(str(error) or type(error).__name__)
