"""The queue, the stop and the probes on a real HTTP server in this process; only the engine is a stub."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from phi_vision.plugins import health, lifecycle, limits
from phi_vision.plugins.lifecycle import Lifecycle
from vllm.entrypoints.launchers.launcher import NoSignalServer


class StubEngine:
    """As much of vLLM's client as the lifecycle asks for."""

    def __init__(self) -> None:
        self.errored = False
        self.silent = False

    async def is_sleeping(self) -> bool:
        if self.silent:
            await asyncio.sleep(3600)
        return False


@dataclass
class Running:
    http: httpx.AsyncClient
    port: int
    engine: StubEngine
    ended: asyncio.Task[None]
    cancelled: list[str]  # requests whose handler was cancelled

    async def slow(self, duration_s: float) -> httpx.Response:
        return await self.http.post("/slow", json={"s": duration_s})

    async def status(self, path: str) -> int:
        return (await self.http.get(path)).status_code


@asynccontextmanager
async def running(max_requests: int = 2, shutdown_timeout_s: float = 5) -> AsyncIterator[Running]:
    app = FastAPI()
    app.include_router(health.router)
    app.add_middleware(limits.RequestLimits)
    cancelled: list[str] = []

    @app.post("/slow")
    async def slow(request: Request) -> dict[str, str]:
        body = await request.json()
        waiting = asyncio.ensure_future(asyncio.sleep(body["s"]))
        gone = asyncio.ensure_future(request.receive())  # as vLLM's `with_cancellation` does
        await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            cancelled.append("slow")
        return {"answer": "done"}

    engine = StubEngine()
    app.state.phi_vision_lifecycle = Lifecycle(engine, app.state, max_requests, shutdown_timeout_s)  # type: ignore[arg-type]
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    app.state.server = server = NoSignalServer(uvicorn.Config(app, log_level="warning"))
    ended = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the lifecycle takes over the signals
    limit = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limit) as http:
        try:
            yield Running(http, port, engine, ended, cancelled)
        finally:
            server.should_exit = True
            await ended
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_stop_requested", False)
    monkeypatch.setattr(lifecycle, "PROBE_INTERVAL_S", 0.05)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_over_the_cap_is_429_at_once_and_the_accepted_finish() -> None:
    async def scenario() -> None:
        async with running(max_requests=2) as server:
            accepted = [asyncio.create_task(server.slow(1.0)) for _ in range(2)]
            await asyncio.sleep(0.2)
            started = time.monotonic()
            refused = await asyncio.gather(*(server.slow(0) for _ in range(20)))
            assert time.monotonic() - started < 0.7  # none waited for the accepted ones
            for answer in refused:
                assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
                error = answer.json()["error"]
                assert (error["type"], error["code"]) == ("rate_limit_error", 429)
            assert await server.status("/readyz") == 503 and await server.status("/livez") == 200
            assert [a.status_code for a in await asyncio.gather(*accepted)] == [200, 200]
            assert await server.status("/readyz") == 200
            assert (await server.slow(0)).status_code == 200

    run(scenario())


def test_429_comes_before_the_body_is_sent() -> None:
    async def scenario() -> None:
        async with running(max_requests=1) as server:
            accepted = asyncio.create_task(server.slow(1.0))
            await asyncio.sleep(0.2)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
            assert b"429" in await asyncio.wait_for(reader.readline(), 0.5)
            writer.close()
            assert (await accepted).status_code == 200

    run(scenario())


def test_a_slow_sender_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with running(max_requests=1) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            assert b"408" in await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            assert (await server.slow(0)).status_code == 200

    run(scenario())


@pytest.mark.parametrize("in_body", [True, False])
def test_a_client_that_goes_frees_its_place(in_body: bool) -> None:
    async def scenario() -> None:
        async with running(max_requests=1) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            body = b'{"s": 30}'
            length = len(body) + (5 if in_body else 0)
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (length, body))
            await asyncio.sleep(0.2)
            assert (await server.slow(0)).status_code == 429
            writer.close()
            await asyncio.sleep(0.3)
            assert (await server.slow(0)).status_code == 200
            assert server.cancelled == ([] if in_body else ["slow"])

    run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_requests_finish_and_takes_no_more(number: signal.Signals) -> None:
    async def scenario() -> None:
        async with running() as server:
            accepted = asyncio.create_task(server.slow(1.0))
            await asyncio.sleep(0.2)
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)
            assert await server.status("/readyz") == 503 and await server.status("/livez") == 200
            refused = await server.slow(0)
            assert refused.status_code == 503 and "Retry-After" in refused.headers
            assert refused.json()["error"]["type"] == "service_unavailable_error"
            assert (await accepted).json() == {"answer": "done"}
            await asyncio.wait_for(server.ended, 5)
            assert lifecycle.stop_was_requested() and server.cancelled == []

    run(scenario())


@pytest.mark.parametrize("second_signal", [True, False])
def test_a_stop_ends_when_the_time_is_up_or_at_the_second_signal(second_signal: bool) -> None:
    async def scenario() -> None:
        async with running(shutdown_timeout_s=30 if second_signal else 0.5) as server:
            accepted = asyncio.create_task(server.slow(20))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.2)
            if second_signal:
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(httpx.TransportError):  # cut off, and told so
                await accepted
            await asyncio.wait_for(server.ended, 5)
            assert time.monotonic() - started < 3 and server.cancelled == ["slow"]

    run(scenario())


def test_an_idle_server_stops_at_once() -> None:
    async def scenario() -> None:
        async with running() as server:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(server.ended, 2)

    run(scenario())


def test_a_silent_engine_is_alive_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "READY_SILENCE_S", 0.4)

    async def scenario() -> None:
        async with running() as server:
            assert await server.status("/readyz") == 200
            server.engine.silent = True
            await asyncio.sleep(1.0)
            unready = await server.http.get("/readyz")
            assert unready.status_code == 503 and "not answered" in unready.json()["status"]
            assert await server.status("/livez") == 200
            server.engine.silent = False
            await asyncio.sleep(0.8)
            assert await server.status("/readyz") == 200

    run(scenario())


def test_a_dead_engine_is_neither_alive_nor_ready() -> None:
    async def scenario() -> None:
        async with running() as server:
            server.engine.errored = True
            assert await server.status("/livez") == 503 and await server.status("/readyz") == 503

    run(scenario())


def test_the_default_cap_is_what_runs_at_once_and_as_many_waiting() -> None:
    @dataclass
    class Config:
        max_num_seqs: int = 256
        kv_cache_size_tokens: int | None = 30_000
        num_gpu_blocks: int = 0
        block_size: int = 16

        cache_config = scheduler_config = property(lambda self: self)

    config: Any = Config()
    assert lifecycle.default_max_requests(config, 3000) == 20
    config.max_num_seqs = 4
    assert lifecycle.default_max_requests(config, 3000) == 8
    config.kv_cache_size_tokens, config.num_gpu_blocks = None, 100
    assert lifecycle.default_max_requests(config, 3000) == 2
