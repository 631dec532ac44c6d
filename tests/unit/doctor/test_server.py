"""A port that is taken, and decoders that cannot start."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from phi_vision.config import ServeConfig
from phi_vision.doctor import server
from phi_vision.doctor.finding import Finding, Level
from phi_vision.doctor.setup import Setup
from phi_vision.media.worker_pool import WorkerPool

from tests.support.hostile_server import FakeServer
from tests.support.setups import setup_with


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens, and answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def setup_at(port: int, *, ours: bool = False) -> Setup:
    return setup_with(Setup(ServeConfig(port=port)), running=Setup().endpoint if ours else None)


def test_a_free_port() -> None:
    with socket.socket() as bound:  # which keeps others away, but does not listen
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        found = server.port(setup_at(port))
    assert (found.level, found.summary) == (Level.OK, f"127.0.0.1:{port} is free")
    assert server.port(setup_at(0)).level == Level.OK


def test_a_port_that_a_foreign_process_has(taken: int) -> None:
    found = server.port(setup_at(taken))
    assert found.level == Level.FAIL and f"is taken by {psutil.Process().name()} (process {os.getpid()})" in (
        found.summary
    )
    assert found.remedy == "end it, or choose another --port"


def test_a_port_whose_holder_is_not_told(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    found = server.port(setup_at(taken))
    assert found.level == Level.FAIL and "by a program that is not seen from here" in found.summary


def test_a_port_that_only_root_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    found = server.port(setup_at(80))
    assert found.level == Level.FAIL and "Permission denied" in found.summary


def test_a_port_that_our_own_server_has(taken: int) -> None:
    found = server.port(setup_at(taken, ours=True))
    assert found.level == Level.WARN and "by a phi-vision server" in found.summary


def test_our_own_server_is_known_by_its_tasks() -> None:
    fake = FakeServer()
    try:
        assert Setup(ServeConfig(port=fake.port)).running is not None
        fake.models = [{"id": "somebody-elses"}]
        assert Setup(ServeConfig(port=fake.port)).running is None
    finally:
        fake.close()


def decoders() -> Finding:
    found = server.decoders(Setup())
    assert found is not None
    return found


def test_decoders_start() -> None:
    found = decoders()
    assert server.decoders(setup_with(engine=None)) is None
    assert found.level == Level.OK and "JPEG" in found.summary and "PDF" in found.summary


def test_decoders_that_cannot_start_say_why(broken_module: Callable[[str, str], None]) -> None:
    broken_module("PIL", "ImportError('libjpeg.so.8: cannot open shared object file')")
    found = decoders()
    assert found.level == Level.FAIL and found.remedy
    assert found.summary == (
        "pictures are not decoded: ImportError: libjpeg.so.8: cannot open shared object file"
    )


def test_a_decoder_that_dies_on_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerPool, "_program", lambda _: [sys.executable, "-c", "raise SystemExit(3)"])
    found = decoders()
    assert found.level == Level.FAIL and "BMP: its decoder crashed" in found.summary
