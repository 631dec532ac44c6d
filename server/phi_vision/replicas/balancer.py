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


def timeouts(config: ServeConfig) -> dict[str, str]:
    """Variables of the configuration; HAProxy takes no time of 0 seconds."""
    return {
        "CLIENT_TIMEOUT_MS": str(round(1000 * config.limits.client_timeout_s)),
        "SHUTDOWN_TIMEOUT_S": str(max(1, config.shutdown_timeout)),
    }


def balancer_process(
    program: str, opened: socket.socket, config: ServeConfig, ports: Sequence[int], tell: Tell
) -> KeptProcess:
    """Not started yet.

    Args:
        program: from `find_haproxy`.
        opened: what it listens on.
        config: of the servers, whose timeouts are its own.
        ports: of the servers.
        tell: the user.
    """
    return KeptProcess(
        "haproxy",
        [program, "-db", "-f", "/dev/stdin"],  # -db: no process of its own in the background
        tell,
        label="haproxy",
        env={"LISTENING": str(opened.fileno()), **timeouts(config)},
        pass_fds=[opened.fileno()],
        text=configuration(ports),
    )
