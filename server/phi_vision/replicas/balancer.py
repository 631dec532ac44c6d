"""HAProxy in front of the servers, with a configuration that is part of the package."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.replicas.process import KeptProcess, Tell

CONFIGURATION = Path(__file__).with_name("haproxy.cfg")


def find_haproxy() -> str:
    """Where the program is.

    Raises:
        UsageError: it is not installed.
    """
    if (found := shutil.which("haproxy")) is None:
        raise UsageError("replicas need HAProxy, which is not installed here: `apt install haproxy`")
    return found


def configuration(ports: Sequence[int]) -> str:
    """The text of the file, and the servers."""
    servers = "".join(
        f"    server {number} {ServeConfig.host}:{port}\n" for number, port in enumerate(ports, 1)
    )
    return CONFIGURATION.read_text() + servers


def balancer_process(program: str, opened: socket.socket, ports: Sequence[int], tell: Tell) -> KeptProcess:
    """Not started yet.

    Args:
        program: from `find_haproxy`.
        opened: what it listens on.
        ports: of the servers.
        tell: the user.
    """
    return KeptProcess(
        "haproxy",
        [program, "-db", "-f", "/dev/stdin"],  # -db: no process of its own in the background
        tell,
        label="haproxy",
        env={"LISTENING": str(opened.fileno())},
        pass_fds=[opened.fileno()],
        text=configuration(ports),
    )
