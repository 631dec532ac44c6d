"""Connections that say nothing, too slowly or too much, on a real server in this process. Its clock stands
still until a test moves it, so that nothing here depends on how fast the machine is."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from phi_vision.limits import Limits
from phi_vision.serving import connections, descriptors
from phi_vision.serving.connections import MAX_HEAD_BYTES
from phi_vision.serving.vllm_compat.server_class import LimitedServer

GET = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
KEEP_ALIVE_S = 5
CLIENT_TIMEOUT_S = 20.0


class FrozenLoop(asyncio.SelectorEventLoop):
    """A real event loop whose time only a test moves."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Of the next answer, which is read to its end."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        await self.reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        return int(head.split()[1])

    async def closed(self) -> bool:
        """Waits for the other side to close; whatever comes before is dropped."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        return True


@dataclass
class Running:
    server: LimitedServer
    loop: FrozenLoop
    port: int
    release: asyncio.Event  # lets `/slow` answer

    async def connect(self) -> Client:
        """A connection that the server has taken."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        await self.until(lambda: self.server_side(client) is not None)
        return client

    def server_side(self, client: Client) -> Any:
        name = client.writer.get_extra_info("sockname")
        return next((connection for connection in self.open if connection.client == name), None)

    async def at_work(self) -> Client:
        """A connection whose request is not answered yet."""
        client = await self.connect()
        own = self.server_side(client)
        await client.send(GET.replace(b"quick", b"slow"))
        await self.until(lambda: own.waiting_since is None)
        return client

    @property
    def open(self) -> set[Any]:
        return self.server.server_state.connections

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)

    async def later(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self.loop.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def running(max_connections: int = 100, sock: socket.socket | None = None) -> AsyncIterator[Running]:
    app = FastAPI()
    app.state.phi_vision_limits = Limits(max_connections=max_connections, client_timeout_s=CLIENT_TIMEOUT_S)
    release = asyncio.Event()

    @app.get("/quick")
    async def quick() -> dict[str, str]:
        return {"answer": "done"}

    @app.get("/slow")
    async def slow() -> dict[str, str]:
        await release.wait()
        return {"answer": "done"}

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(50_000_000))

    if sock is None:
        sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=KEEP_ALIVE_S)
    config.load()
    server = LimitedServer(config)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, FrozenLoop)
    ended = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield Running(server, loop, sock.getsockname()[1], release)
    finally:
        server.should_exit = True
        while not ended.done():
            loop.now += 0.1
            await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=FrozenLoop) as runner:
        runner.run(scenario())  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", [b"", b"GET /quick HTTP/1.1\r\nHost: local", b"\r\n", b"\r\n\r\n"])
def test_a_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    async def scenario() -> None:
        async with running() as server:
            client = await server.connect()
            if sent:
                await client.send(sent)
            await server.later(CLIENT_TIMEOUT_S - 0.1)
            assert len(server.open) == 1
            await server.later(0.2)
            assert await client.closed() and not server.open

    run(scenario)


def test_more_bytes_do_not_prolong_a_head() -> None:
    async def scenario() -> None:
        async with running() as server:
            client = await server.connect()
            for sign in GET[: int(CLIENT_TIMEOUT_S)]:
                await client.send(bytes([sign]))
                await server.later(1)
            assert await client.closed()

    run(scenario)


@pytest.mark.parametrize("next_byte", [b"", b"G", b"\n"])
def test_a_connection_that_was_used_is_closed_too(next_byte: bytes) -> None:
    """One more byte ends uvicorn's own time-out, and nothing took its place."""

    async def scenario() -> None:
        async with running() as server:
            client = await server.connect()
            await client.send(GET)
            assert await client.status() == 200
            await server.later(KEEP_ALIVE_S - 1)
            await client.send(GET)
            assert await client.status() == 200  # still open within uvicorn's time
            (connection,) = server.open
            if next_byte:
                await client.send(next_byte)
                await server.until(lambda: connection.timeout_keep_alive_task is None)
            await server.later(CLIENT_TIMEOUT_S + 0.1)
            assert await client.closed() and not server.open

    run(scenario)


def test_a_request_at_work_has_no_such_limit() -> None:
    async def scenario() -> None:
        async with running() as server:
            client = await server.at_work()
            await server.later(100 * CLIENT_TIMEOUT_S)
            server.release.set()
            assert await client.status() == 200

    run(scenario)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /quick HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 2 * MAX_HEAD_BYTES,
        b"GET /" + b"y" * 2 * MAX_HEAD_BYTES,
        b"\r\n" * MAX_HEAD_BYTES,
        b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
        + b"x: y\r\n" * MAX_HEAD_BYTES,
    ],
    ids=["header", "path", "blank lines", "trailers"],
)
def test_what_is_neither_body_nor_a_short_head_is_not_taken_for_long(request_: bytes) -> None:
    async def scenario() -> None:
        async with running() as server:
            client = await server.connect()
            client.writer.write(request_)
            assert await client.closed()

    run(scenario)


@pytest.mark.parametrize("pieces", [[bytes(1_000_000)], [b"x"] * 5000])
def test_a_body_in_pieces_of_any_size_is_taken(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        async with running() as server:
            client = await server.connect()
            await client.send(
                b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for piece in pieces:
                await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.send(b"0\r\n\r\n")
            assert await client.status() == 200

    run(scenario)


def test_a_client_that_does_not_read_is_given_up() -> None:
    async def scenario() -> None:
        async with running() as server:
            client = await server.connect()
            (connection,) = server.open
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET.replace(b"quick", b"large"))
            await server.until(lambda: connection.flow.write_paused)
            await server.later(CLIENT_TIMEOUT_S - 0.1)
            assert server.open
            await server.later(0.2)
            await server.until(lambda: not server.open and not server.server.server_state.tasks)

    run(scenario)


def test_the_connection_that_waits_longest_makes_room() -> None:
    async def scenario() -> None:
        async with running(max_connections=4) as server:
            working = await server.at_work()
            waiting = []
            for _ in range(20):
                await server.later(0.1)
                waiting.append(await server.connect())
                assert len(server.open) == min(4, 1 + len(waiting))
            assert [await client.closed() for client in waiting[:-3]]
            for client in waiting[-3:]:
                await client.send(GET)
                assert await client.status() == 200
            server.release.set()
            assert await working.status() == 200

    run(scenario)


def test_when_all_are_at_work_the_next_is_told_so() -> None:
    async def scenario() -> None:
        async with running(max_connections=2) as server:
            working = [await server.at_work(), await server.at_work()]
            refused = Client(*await asyncio.open_connection("127.0.0.1", server.port))
            assert await refused.status() == 503 and await refused.closed()
            server.release.set()
            assert [await client.status() for client in working] == [200, 200]
            client = await server.connect()
            await client.send(GET)
            assert await client.status() == 200

    run(scenario)


def test_a_failed_accept_does_not_end_the_server() -> None:
    class Sock(socket.socket):
        faults = 3

        def accept(self) -> tuple[socket.socket, Any]:
            if Sock.faults:
                Sock.faults -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def scenario() -> None:
        async with running(sock=Sock()) as server:
            client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
            await client.send(GET)
            while Sock.faults:
                await server.later(1)  # vLLM's loop waits for a second
            await server.later(1)
            assert await client.status() == 200

    run(scenario)


def test_the_cap_leaves_descriptors_for_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "count_free", lambda: 200)
    limits = Limits(max_connections=1000, max_num_queued_reqs=500)
    fitted = connections.fit_to_descriptors(limits)
    assert (fitted.max_connections, fitted.max_num_queued_reqs) == (100, 99)  # one is left for a probe
    few = Limits(max_connections=50, max_num_queued_reqs=40)
    assert connections.fit_to_descriptors(few) == few
    assert connections.fit_to_descriptors(Limits()).max_num_queued_reqs is None
