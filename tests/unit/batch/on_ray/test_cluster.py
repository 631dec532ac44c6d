"""Which cluster: what is said where there is none."""

from __future__ import annotations

import socket
import sys

import pytest
from phi_vision.batch.on_ray.cluster import connected
from phi_vision.errors import UsageError

from tests.support.answering_server import AnsweringServer


def refused(address: str) -> str:
    with pytest.raises(UsageError) as raised, connected(address):
        pass
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("address", ["", "head", "ray://head:10001", "http://head:8265", "head:65x"])
def test_an_address_that_is_none(address: str) -> None:
    assert refused(address) == f"--ray {address} is not HOST:PORT of a cluster's head, auto or local"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refused(f"127.0.0.1:{port}") == f"no Ray cluster at --ray 127.0.0.1:{port}: Connection refused"
    assert "no Ray cluster at --ray 127.0.0.1:70000: " in refused("127.0.0.1:70000")
    assert "no Ray cluster at --ray nowhere.invalid:6379: " in refused("nowhere.invalid:6379")


def test_somebody_else_there(answering: AnsweringServer) -> None:
    assert "what answers there is not Ray" in refused(f"127.0.0.1:{answering.port}")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused("local") == "--ray needs Ray: pip install 'phi-vision[ray]'"
