"""What answers on the port before the server does, and how the port changes hands."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from phi_vision import page
from phi_vision.serving import startup_server
from phi_vision.serving.origin_rule import OriginRule, allowed_hosts
from phi_vision.serving.startup_process import StartupProcess, relieve
from phi_vision.serving.startup_server import STOP, StartupServer

from tests.support.serving import PATIENCE_S

RULE = OriginRule(allowed_hosts(None, "127.0.0.1", keyed=False), ())


@dataclass
class Running:
    url: str
    http: httpx.AsyncClient
    control: socket.socket
    ended: asyncio.Task[None]

    async def say(self, **state: Any) -> None:
        self.control.sendall(json.dumps(state).encode() + b"\n")
        while (await self.http.get("/readyz")).json() != state:
            pass

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = httpx.URL(self.url)
        return await asyncio.open_connection(url.host, url.port)


@asynccontextmanager
async def running(
    folder: Path, client_timeout_s: float = PATIENCE_S, *, has_page: bool = False
) -> AsyncIterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX) as control:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        control.bind(str(folder / "control"))
        control.listen()
        ended = asyncio.create_task(
            StartupServer(RULE, client_timeout_s, has_page=has_page).run(listening, control)
        )
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            with socket.socket(socket.AF_UNIX) as teller:
                teller.connect(str(folder / "control"))
                yield Running(url, http, teller, ended)
        ended.cancel()


def test_it_says_how_far_the_start_is(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as server:
            first = await server.http.get("/readyz")
            assert (first.status_code, first.json()) == (503, {"status": "loading"})
            await server.say(status="downloading", percent=43)
            alive = await server.http.get("/livez")
            assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
            head = await server.http.head("/readyz")
            assert (head.status_code, head.content) == (503, b"")
            assert head.headers["content-length"] == str(len((await server.http.get("/readyz")).content))

    asyncio.run(check())


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/health", "/metrics", "/", "/page/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_all_else_is_to_be_asked_later(method: str, path: str, tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as server:
            await server.say(status="downloading", percent=43)
            answer = await server.http.request(method, path, content=b"x" * 5_000_000)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            error = answer.json()["error"]
            assert error["code"] == 503 and "downloading (43 %)" in error["message"]

    asyncio.run(check())


def test_the_page_is_there_already(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, has_page=True) as server:
            for path, file in page.files().items():
                answer = await server.http.get(path + "?a=b")
                assert (answer.status_code, answer.content) == (200, file.content)
                assert answer.headers["content-type"] == file.media_type
                assert [answer.headers[name] for name in page.HEADERS] == list(page.HEADERS.values())
            assert (await server.http.get("/page/other.js")).status_code == 503
            assert (await server.http.post("/")).status_code == 503

    asyncio.run(check())


def test_web_pages_of_other_origins_are_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, has_page=True) as server:
            for path, headers, status in (
                ("/", {"Host": "attacker.example"}, 403),
                ("/v1/models", {"Host": "attacker.example"}, 403),
                ("/readyz", {"Host": "pool.internal"}, 503),
                ("/livez", {"Host": "pool.internal"}, 200),
                ("/readyz", {"Origin": "https://attacker.example"}, 403),
                ("/", {"Host": "localhost:8000"}, 200),
            ):
                answer = await server.http.get(path, headers=headers)
                assert answer.status_code == status, (path, headers)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /readyz HTTP/1.1\r\n\r\n", 503),
        (b"GET http://127.0.0.1/livez HTTP/1.0\r\n\r\n", 200),
        (b"GET /livez HTTP/2.0\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\xff\xfe / HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000, 431),
        (b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: \xe9\r\n\r\n", 403),
    ],
)
def test_any_bytes_get_an_answer(sent: bytes, status: int, tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as server:
            reader, writer = await server.connect()
            writer.write(sent)
            writer.write_eof()
            head = (await reader.read()).split(b"\r\n")[0]
            writer.close()
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert (await server.http.get("/livez")).status_code == 200

    asyncio.run(check())


def test_a_client_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, client_timeout_s=0.05) as server:
            for sent in (b"", b"GET /livez HTTP/1.1\r\n"):
                reader, writer = await server.connect()
                writer.write(sent)
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()

    asyncio.run(check())


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_server, "_MAX_CONNECTIONS", 3)

    async def check() -> None:
        async with running(tmp_path) as server:
            held = [await server.connect() for _ in range(3)]
            reader, writer = await server.connect()
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            for reader, writer in held:  # none of them was let go for it
                writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                writer.close()

    asyncio.run(check())


def test_who_is_connected_when_it_stops_gets_an_answer(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as server:
            reader, writer = await server.connect()
            writer.write(b"GET /readyz HTTP/1.1\r\n")
            await server.say(status="loading", step=2)  # the connection before was accepted by then
            server.control.sendall(STOP)
            assert await asyncio.to_thread(server.control.recv, 100) == STOP
            assert not server.ended.done()
            writer.write(b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
            writer.close()
            await server.ended

    asyncio.run(check())


def test_no_connection_is_refused_or_lost_when_the_server_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real program on the one side of the socket; a server that says 200 is the other."""
    monkeypatch.setenv("PHI_VISION_FOLDER", str(tmp_path))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def check() -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        starting = StartupProcess(listening, tmp_path, RULE, PATIENCE_S, has_page=True)
        starting.say(status="downloading", percent=7)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/readyz"
        asked = 0

        async def ask() -> list[int]:
            nonlocal asked
            statuses: list[int] = []
            async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
                while statuses.count(200) < 20:
                    statuses.append((await http.get(url)).status_code)
                    asked += 1
            return statuses

        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            while True:
                try:
                    answer = await http.get(url)
                except httpx.ConnectError:  # the program has not begun
                    continue
                if answer.json() == {"status": "downloading", "percent": 7}:
                    break
        asking = [asyncio.create_task(ask()) for _ in range(8)]
        while asked < 50:
            await asyncio.sleep(0)
        await relieve()
        server = await asyncio.start_server(serve, sock=listening)
        asking.append(asyncio.create_task(ask()))
        *before, after = await asyncio.gather(*asking)  # raises what is refused or broken off
        assert all(statuses == sorted(statuses, reverse=True) for statuses in before)  # never back
        assert {status for statuses in before for status in statuses} == {503, 200}
        assert set(after) == {200}
        await relieve()  # as the other processes of a server do
        server.close()

    asyncio.run(check())
