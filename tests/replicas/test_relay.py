"""Requests and answers through the balancer, with servers that refuse, end and hang."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import web
from phi_vision.limits import Limits
from phi_vision.replicas import relay

from tests.support.balanced import Balanced, Upstream, answering, balanced, dying, waiting

CHAT = "/v1/chat/completions"


def through(
    use: Callable[[Balanced], Awaitable[Any]], *servers: Upstream | None, limits: Limits | None = None
) -> Any:
    async def run() -> Any:
        async with balanced(*servers, limits=limits) as there:
            result = await use(there)
            await until(lambda: not any(member.in_flight for member in there.members))
            await until(lambda: there.balancer.relay.held_bytes == 0)
            return result

    return asyncio.run(run())


def post(path: str = CHAT, content: bytes = b"{}", **headers: str) -> Callable[[Balanced], Any]:
    return lambda there: there.client.post(path, content=content, headers=headers)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_request_arrives_as_it_was_sent() -> None:
    server = answering(text="answer")
    content = b'{"a": 1, "a": 2.0, "b": "\\u00e9"}  '
    path = "/v1/ocr/a%2Fb%20c?x=1&x=%C3%A9"
    headers = [
        ("Host", "phi.example.org"),
        ("Authorization", "Bearer key"),
        ("Origin", "http://elsewhere"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Cookie", "a=b"),
        ("Connection", "X-Hop"),
        ("X-Hop", "not for the server"),
    ]
    answer = through(lambda there: there.client.post(path, content=content, headers=headers), server)
    assert answer.text == "answer"
    (request,), (body,) = server.asked, server.bodies
    assert (request.method, request.raw_path, body) == ("POST", path, content)
    for name, value in headers[:3]:
        assert request.headers[name] == value
    assert request.headers.getall("X-Twice") == ["1", "2"]
    assert request.headers["X-Forwarded-For"] == "192.0.2.1, 127.0.0.1"
    assert request.headers["Cookie"] == "a=b"
    assert "X-Hop" not in request.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH"])
def test_each_method_passes(method: str) -> None:
    server = answering(text="answer")
    answer = through(lambda there: there.client.request(method, "/v1/files/x"), server)
    assert (answer.status_code, server.asked[0].method, server.bodies) == (200, method, [b""])
    assert answer.text == ("" if method == "HEAD" else "answer")


def test_an_upload_passes() -> None:
    server = answering(text="kept")
    files = {"file": ("a.pdf", bytes(range(256)) * 1000)}
    through(lambda there: there.client.post("/v1/files", files=files, data={"purpose": "ocr"}), server)
    assert files["file"][1] in server.bodies[0]
    assert server.asked[0].headers["Content-Type"].startswith("multipart/form-data; boundary=")


def test_an_answer_comes_as_it_was_given() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        answer = web.Response(status=418, body=gzip.compress(b"text"))
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Content-Type"] = "text/plain; charset=utf-8"
        answer.headers["X-Phi-Vision-Rope"] = "short"
        answer.headers.add("Set-Cookie", "a=1")
        answer.headers.add("Set-Cookie", "b=2")
        return answer

    server = Upstream(handler)

    async def use(there: Balanced) -> list[httpx.Response]:
        return [await there.client.get("/x") for _ in range(2)]

    for answer in through(use, server):
        assert (answer.status_code, answer.text) == (418, "text")
        assert answer.headers["X-Phi-Vision-Rope"] == "short"
        assert answer.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
        assert len(answer.headers.get_list("Date")) == 1
    assert server.asked[1].headers.get("Cookie") == "a=1; b=2"  # the client's own, not the balancer's


def test_a_stream_comes_piece_by_piece() -> None:
    async def run() -> list[bytes]:
        end = asyncio.Event()
        async with (
            balanced(waiting(end, before=b"early")) as there,
            there.client.stream("POST", CHAT, content=b"{}") as answer,
        ):
            pieces = answer.aiter_raw()
            first = await anext(pieces)
            end.set()
            return [first, *[piece async for piece in pieces]]

    assert asyncio.run(run()) == [b"early", b"late"]


def test_requests_are_shared_out() -> None:
    servers = answering(), answering()

    async def use(there: Balanced) -> None:
        for _ in range(10):
            await there.client.get("/v1/models")

    through(use, *servers)
    assert [len(server.asked) for server in servers] == [5, 5]


def test_the_less_busy_one_is_asked() -> None:
    async def run() -> list[int]:
        end = asyncio.Event()
        servers = waiting(end), waiting(end), waiting(end)
        async with balanced(*servers) as there:
            asking = [asyncio.create_task(there.client.get(f"/{i}")) for i in range(9)]
            await until(lambda: sum(len(server.asked) for server in servers) == 9)
            end.set()
            await asyncio.gather(*asking)
        return [len(server.asked) for server in servers]

    assert asyncio.run(run()) == [3, 3, 3]


@pytest.mark.parametrize(("status", "times"), [(429, 2), (503, 1)])
def test_a_refused_request_goes_to_the_next(status: int, times: int) -> None:
    """Full is full for a moment; a server that takes none is left alone until it says otherwise."""
    full, free = answering(status, "refused", retry_after="7"), answering(text="answer")

    async def use(there: Balanced) -> list[str]:
        return [(await there.client.post("/v1/files", content=b"once")).text for _ in range(4)]

    assert through(use, full, free) == ["answer"] * 4
    assert (free.bodies, full.bodies) == ([b"once"] * 4, [b"once"] * times)


def test_the_last_refusal_is_the_answer() -> None:
    servers = answering(429, "full", retry_after="7"), answering(429, "full", retry_after="7")
    answer = through(post(), *servers)
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (429, "full", "7")
    assert [len(server.asked) for server in servers] == [1, 1]


def test_a_server_that_ended_is_no_error() -> None:
    async def use(there: Balanced) -> list[int]:
        codes = [(await there.client.post("/v1/batches", content=b"{}")).status_code for _ in range(4)]
        assert [member.ready for member in there.members] == [False, True]
        return codes

    assert through(use, None, answering()) == [200] * 4


def test_no_server_at_all() -> None:
    async def use(there: Balanced) -> httpx.Response:
        await there.client.get("/x")
        there.members[0].url = None
        return await there.client.get("/x")

    answer = through(use, None)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json()["error"]["message"].startswith("no server is ready")


def test_a_question_is_asked_again_where_its_server_ended() -> None:
    async def use(there: Balanced) -> list[str]:
        return [(await there.client.post(CHAT, content=b"{}")).text for _ in range(2)]

    assert through(use, dying(), answering(text="answer")) == ["answer"] * 2


def test_but_once_only() -> None:
    servers = dying(), dying(), answering()

    async def use(there: Balanced) -> httpx.Response:
        with there.members[2].at_work():  # so that it would be the last
            return await there.client.post(CHAT, content=b"{}")

    answer = through(use, *servers)
    assert answer.status_code == 502 and "send it again" in answer.json()["error"]["message"]
    assert [len(server.asked) for server in servers] == [1, 1, 0]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/batches/x/cancel"])
def test_what_makes_something_is_not_done_twice(path: str) -> None:
    servers = dying(), dying()
    answer = through(post(path), *servers)
    assert answer.status_code == 502
    assert sum(len(server.asked) for server in servers) == 1


def test_an_answer_that_breaks_off_does_so_for_the_client() -> None:
    servers = dying(after=2), dying(after=2)
    with pytest.raises(httpx.RemoteProtocolError):
        through(post(), *servers)
    assert sum(len(server.asked) for server in servers) == 1


def test_a_client_that_goes_frees_its_server() -> None:
    async def run() -> int:
        never = asyncio.Event()
        server = waiting(never)
        async with balanced(server) as there:
            asking = asyncio.create_task(there.client.post(CHAT, content=b"{}"))
            await until(lambda: len(server.asked) == 1)
            asking.cancel()
            await until(lambda: server.left == 1)
            await until(lambda: there.members[0].in_flight == 0)
        return server.left

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded(chunked: bool) -> None:
    server = answering()

    async def pieces() -> Any:
        for _ in range(3):
            yield bytes(500_000)

    limits = Limits(max_body_mb=1.0, max_file_mb=0.5)
    content: Any = pieces() if chunked else bytes(1_500_000)
    answer = through(lambda there: there.client.post(CHAT, content=content), server, limits=limits)
    assert (answer.status_code, server.asked) == (413, [])
    assert answer.json()["error"]["message"] == "the request is larger than 1 MB"


def test_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_HELD_BYTES", 1000)
    answer = through(post(content=bytes(1001)), answering())
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")


def test_a_body_that_does_not_come() -> None:
    async def use(there: Balanced) -> bytes:
        host, port = there.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        head = await reader.readuntil(b"\r\n")
        writer.close()
        return head

    server = answering()
    assert b" 408 " in through(use, server, limits=Limits(client_timeout_s=0.3))
    assert not server.asked


def test_a_balancer_that_stops_takes_nothing_new() -> None:
    async def run() -> tuple[int, str, int]:
        end = asyncio.Event()
        async with balanced(waiting(end)) as there:
            running = asyncio.create_task(there.client.post(CHAT, content=b"{}"))
            await until(lambda: there.members[0].in_flight == 1)
            there.balancer.stop()
            refused = await there.client.post(CHAT, content=b"{}")
            ready = await there.client.get("/readyz")
            end.set()
            return refused.status_code, (await running).text, ready.status_code

    assert asyncio.run(run()) == (503, "late", 503)


def test_websockets_are_refused() -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    server = answering()
    answer = through(lambda there: there.client.get("/v1/realtime", headers=headers), server)
    assert answer.status_code in (403, 501) and not server.asked


def test_a_connection_too_many_closes_the_one_that_waits() -> None:
    async def use(there: Balanced) -> tuple[bytes, int]:
        host, port = there.url.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        first = await idle[0][0].read()  # its end
        for _, writer in idle:
            writer.close()
        return first, (await there.client.get("/x")).status_code

    limits = Limits(max_connections=2, max_num_queued_reqs=1)
    assert through(use, answering(), limits=limits) == (b"", 200)
