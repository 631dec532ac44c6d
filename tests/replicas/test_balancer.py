"""HAProxy's configuration, and what it is started with."""

from __future__ import annotations

import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.replicas.balancer import configuration, find_haproxy, timeouts

from tests.support.programs import program

DEPLOYED = Path(__file__).parents[2] / "server" / "deploy" / "haproxy.cfg"

# What differs on one machine: socket, flags, whose log it is, what is refused, servers that have no name.
FLAGS = ("hard-stop-after ", "timeout http-request ", "timeout client ")
OURS = (*FLAGS, "bind ", "option dontlog-normal", "http-request return ", "server ", "default-server ")
THEIRS = (*FLAGS, "bind ", "monitor-uri ", "http-request deny ", "server-template ", "default-server ")


def settings(text: str, without: tuple[str, ...]) -> list[str]:
    """Its lines without comments, those of name servers and these."""
    lines = [line.split("  #")[0].strip() for line in text.splitlines()]
    if "resolvers names" in lines:
        begins, ends = lines.index("resolvers names"), lines.index("frontend clients")
        lines[begins:ends] = []
    return [line for line in lines if line and not line.startswith(("#", *without))]


def test_it_is_that_of_compose_and_kubernetes() -> None:
    ours, theirs = settings(configuration([1, 2]), OURS), settings(DEPLOYED.read_text(), THEIRS)
    assert ours == theirs
    checks = "check inter 1s fall 1 rise 1"
    assert checks in configuration([]) and checks in DEPLOYED.read_text()


def test_haproxy_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(configuration([4001, 4002]))
    assert file.read_text().endswith("    server 1 127.0.0.1:4001\n    server 2 127.0.0.1:4002\n")
    command = [program("haproxy", "haproxy"), "-c", "-f", str(file)]
    with socket.create_server(("127.0.0.1", 0)) as opened:
        fd = opened.fileno()
        env = {"LISTENING": str(fd), **timeouts(ServeConfig())}
        checked = subprocess.run(command, env=env, pass_fds=[fd], capture_output=True)
    assert (checked.returncode, b"WARNING" in checked.stderr) == (0, False), checked.stderr


def test_its_timeouts_are_the_servers() -> None:
    config = ServeConfig()
    own = timeouts(replace(config, limits=replace(config.limits, client_timeout_s=2.5), shutdown_timeout=600))
    assert own == {"CLIENT_TIMEOUT_MS": "2500", "SHUTDOWN_TIMEOUT_S": "600"}
    assert all(f'"${{{name}}}' in configuration([]) for name in own)
    (seconds,) = re.findall(r"^ +timeout client (\d+)s", DEPLOYED.read_text(), re.MULTILINE)
    assert float(seconds) == config.limits.client_timeout_s


def test_without_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="apt install haproxy"):
        find_haproxy()
