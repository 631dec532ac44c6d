"""A server that is started again where it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import httpx
import psutil
import pytest
from phi_vision.batch.on_ray.own_server import OwnServer
from phi_vision.client.process import ServerStartError

from tests.support import answering_server
from tests.support.serving import eventually


def processes(port: int) -> list[psutil.Process]:
    """Of this process, that were told to listen there."""
    return [each for each in psutil.Process().children() if each.cmdline()[-2:] == ["--port", str(port)]]


def test_it_is_started_again_where_it_was() -> None:
    ports = []

    def command(port: int) -> Sequence[str]:
        ports.append(port)
        return [sys.executable, answering_server.__file__, "--port", str(port)]

    own = OwnServer(command)
    first = asyncio.run(own.endpoint())
    [process] = processes(0)
    process.kill()
    eventually(lambda: len(ports) == 2)
    second = asyncio.run(own.endpoint())
    assert second == first and first.key
    assert ports == [0, httpx.URL(first.base_url).port]
    assert httpx.get(second.url("/models")).status_code == 200


def test_it_is_started_elsewhere_where_its_port_was_taken() -> None:
    ports = []

    def command(port: int) -> Sequence[str]:
        ports.append(port)
        if port:
            return [sys.executable, "-c", "raise SystemExit('address already in use')"]
        return [sys.executable, answering_server.__file__, "--port", "0"]

    own = OwnServer(command)
    first = asyncio.run(own.endpoint())
    [process] = processes(0)
    process.kill()
    eventually(lambda: len(ports) == 3)
    second = asyncio.run(own.endpoint())
    assert ports == [0, httpx.URL(first.base_url).port, 0]
    assert second.key == first.key and httpx.get(second.url("/models")).status_code == 200


def test_one_that_does_not_start_is_tried_again_and_given_up() -> None:
    ports = []

    def command(port: int) -> Sequence[str]:
        ports.append(port)
        return [sys.executable, "-c", "raise SystemExit('no memory')"]

    with pytest.raises(ServerStartError, match="the server did not start: no memory"):
        asyncio.run(OwnServer(command).endpoint())
    assert ports == [0, 0, 0]


def test_one_that_is_not_there_is_not_tried_again() -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(OwnServer(lambda port: ["/nowhere/phi-vision"]).endpoint())
