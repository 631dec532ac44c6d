"""The queue, the stop and the probes on a real HTTP server in this process; only the engine is a stub."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from phi_vision.serving import lifecycle
from phi_vision.serving.lifecycle import Lifecycle
from phi_vision.serving.middleware.admission import AdmissionControl
from phi_vision.serving.middleware.body_reader import BodyReader
from phi_vision.serving.routes import health
from vllm.entrypoints.launchers.launcher import NoSignalServer


class StubEngine:
    """As much of vLLM's client as the lifecycle asks for."""

    def __init__(self) -> None:
        self.errored = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def is_sleeping(self) -> bool:
        self.asked += 1
        await self.answers.wait()
        return False


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Running:
    http: httpx.AsyncClient
    port: int
    engine: StubEngine
    lifecycle: Lifecycle
    clock: Clock
    signals: dict[int, Callable[[], None]]  # what the lifecycle does on each
    finish: asyncio.Event  # until it is set, no request is answered
    ended: asyncio.Task[None]
    cancelled: list[str]  # requests whose handler was cancelled

    def post(self) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.http.post("/slow", json={}))

    async def at_work(self, count: int) -> None:
        await eventually(lambda: self.lifecycle.num_requests == count)

    async def status(self, path: str) -> int:
        return (await self.http.get(path)).status_code


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a state; `run` ends a wait that is in vain."""
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch,
    max_requests: int = 2,
    shutdown_timeout_s: float = 5,
    stop_notice_s: float = 0,
) -> AsyncIterator[Running]:
    app = FastAPI()
    app.include_router(health.router)
    app.add_middleware(BodyReader, max_bytes=1_000_000, timeout_s=600)
    app.add_middleware(AdmissionControl)
    cancelled: list[str] = []
    finish = asyncio.Event()

    @app.post("/slow")
    async def slow(request: Request) -> dict[str, str]:
        await request.body()
        waiting = asyncio.ensure_future(finish.wait())
        gone = asyncio.ensure_future(request.receive())  # as vLLM's `with_cancellation` does
        await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            cancelled.append("slow")
        return {"answer": "done"}

    clock = Clock()
    monkeypatch.setattr(lifecycle, "time", clock)
    signals: dict[int, Callable[[], None]] = {}
    # No signal is sent to the process of the tests; test_overload.py sends them to a server of its own.
    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", signals.__setitem__)
    engine = StubEngine()
    cycle = Lifecycle(engine, app.state, max_requests, shutdown_timeout_s, stop_notice_s=stop_notice_s)
    app.state.phi_vision_lifecycle = cycle
    app.state.phi_vision_body_limits = SimpleNamespace(parse=json.loads)  # what they refuse has its own tests
    app.state.phi_vision_field_rules = SimpleNamespace(check=lambda path, body: None)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    app.state.server = server = NoSignalServer(uvicorn.Config(app, log_level="warning"))
    ended = asyncio.create_task(server.serve(sockets=[sock]))
    await eventually(lambda: server.started and len(signals) == 2)
    limit = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None, limits=limit) as http:
        try:
            yield Running(http, port, engine, cycle, clock, signals, finish, ended, cancelled)
        finally:
            finish.set()
            server.should_exit = True
            await ended


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_stop_requested", False)
    monkeypatch.setattr(lifecycle, "PROBE_INTERVAL_S", 0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))  # a state that never comes


def test_over_the_cap_is_429_and_the_accepted_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch, max_requests=2) as server:
            accepted = [server.post() for _ in range(2)]
            await server.at_work(2)
            for answer in await asyncio.gather(*(server.post() for _ in range(20))):
                assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
                error = answer.json()["error"]
                assert (error["type"], error["code"]) == ("rate_limit_error", 429)
            assert not any(request.done() for request in accepted)  # none waited for these
            assert await server.status("/readyz") == 503 and await server.status("/livez") == 200
            server.finish.set()
            assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200, 200]
            assert await server.status("/readyz") == 200
            assert (await server.post()).status_code == 200

    run(scenario())


def test_429_comes_before_the_body_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch, max_requests=1) as server:
            accepted = server.post()
            await server.at_work(1)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
            assert b"429" in await reader.readline()
            writer.close()
            server.finish.set()
            assert (await accepted).status_code == 200

    run(scenario())


@pytest.mark.parametrize("in_body", [True, False])
def test_a_client_that_goes_frees_its_place(in_body: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch, max_requests=1) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            body = b"{}"
            length = len(body) + (5 if in_body else 0)
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (length, body))
            await server.at_work(1)
            assert (await server.post()).status_code == 429
            writer.close()
            await server.at_work(0)
            assert server.cancelled == ([] if in_body else ["slow"])
            server.finish.set()
            assert (await server.post()).status_code == 200

    run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_requests_finish_and_takes_no_more(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(monkeypatch) as server:
            accepted = server.post()
            await server.at_work(1)
            server.signals[number]()
            assert await server.status("/readyz") == 503 and await server.status("/livez") == 200
            refused = await server.post()
            assert refused.status_code == 503 and "Retry-After" in refused.headers
            assert refused.json()["error"]["type"] == "service_unavailable_error"
            server.finish.set()
            assert (await accepted).json() == {"answer": "done"}
            await server.ended
            assert lifecycle.stop_was_requested() and server.cancelled == []

    run(scenario())


@pytest.mark.parametrize("second_signal", [True, False])
def test_a_stop_ends_when_the_time_is_up_or_at_the_second_signal(
    second_signal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(monkeypatch, shutdown_timeout_s=30) as server:
            accepted = server.post()
            await server.at_work(1)
            server.signals[signal.SIGTERM]()
            server.clock.now += 29
            assert await server.status("/livez") == 200 and not accepted.done()
            if second_signal:
                server.signals[signal.SIGTERM]()
            else:
                server.clock.now += 1
            with pytest.raises(httpx.TransportError):  # cut off, and told so
                await accepted
            await server.ended
            assert server.cancelled == ["slow"]

    run(scenario())


def test_a_stop_is_noticed_before_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch, stop_notice_s=3) as server:
            server.signals[signal.SIGTERM]()
            assert await server.status("/readyz") == 503 and await server.status("/livez") == 200
            taken = server.post()
            await server.at_work(1)
            server.clock.now += 3
            assert (await server.post()).status_code == 503
            server.finish.set()
            assert (await taken).status_code == 200
            await server.ended

    run(scenario())


def test_a_second_signal_ends_the_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch, stop_notice_s=3) as server:  # on a clock that stands
            server.signals[signal.SIGTERM]()
            server.signals[signal.SIGTERM]()
            await server.ended

    run(scenario())


def test_batches_give_up_at_once_and_the_stop_waits_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch) as server:
            told, given_up = asyncio.Event(), asyncio.Event()

            async def give_up() -> None:
                told.set()
                await given_up.wait()

            server.lifecycle.at_stop.append(give_up)
            accepted = server.post()
            await server.at_work(1)
            server.signals[signal.SIGTERM]()
            await told.wait()  # while a request of a client is still at work
            server.finish.set()
            await accepted
            assert not server.ended.done()
            given_up.set()
            await server.ended

    run(scenario())


def test_lines_of_batches_wait_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch) as server:
            accepted = server.post()
            await server.at_work(1)
            places = server.lifecycle.batch_places

            async def line() -> None:
                async with places.take("owner"):
                    pass

            waiting = asyncio.create_task(line())
            await eventually(lambda: len(places._waiting) == 1)
            server.finish.set()
            await accepted
            await waiting

    run(scenario())


def test_an_idle_server_stops_although_its_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch) as server:
            server.signals[signal.SIGTERM]()
            await server.ended

    run(scenario())


def test_a_silent_engine_is_alive_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch) as server:
            assert await server.status("/readyz") == 200
            server.engine.answers.clear()
            asked = server.engine.asked
            await eventually(lambda: server.engine.asked > asked)  # and waits
            server.clock.now += lifecycle.READY_SILENCE_S
            assert await server.status("/readyz") == 200
            server.clock.now += 1
            unready = await server.http.get("/readyz")
            assert unready.status_code == 503 and "not answered" in unready.json()["status"]
            assert await server.status("/livez") == 200
            server.engine.answers.set()
            asked = server.engine.asked
            await eventually(lambda: server.engine.asked > asked)  # the one before was answered
            assert await server.status("/readyz") == 200

    run(scenario())


def test_a_dead_engine_is_neither_alive_nor_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(monkeypatch) as server:
            server.engine.errored = True
            assert await server.status("/livez") == 503 and await server.status("/readyz") == 503

    run(scenario())
