"""What a fetch makes of hosts that misbehave: errors, floods, silence and nonsense."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamWriter
from typing import Any

import pytest
from phi_vision.media.fetch import FetchLimits, FetchRefused, fetch

from tests.support.scripted_hosts import LOOPBACK, OK, OPEN, ScriptedResolver, get, redirect


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 404, 500, 503])
def test_other_answers_are_refused(status: int) -> None:
    with pytest.raises(FetchRefused, match=f"answered {status}"):
        get(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)


@pytest.mark.parametrize("announced", [True, False])
def test_the_size_is_capped_while_reading(announced: bool) -> None:
    sent = 0

    async def endless(writer: StreamWriter) -> None:
        nonlocal sent
        length = b"Content-Length: 100000000\r\n" if announced else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        while sent < 100_000_000:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    with pytest.raises(FetchRefused, match=r"larger than 0.1 MB"):
        get(endless)
    assert sent < 20_000_000  # what fits into the buffers between the two, not all of it


def test_a_compressed_answer_is_refused() -> None:
    with pytest.raises(FetchRefused, match="compressed"):
        get(OK.replace(b"image/png", b"image/png\r\nContent-Encoding: gzip"))


@pytest.mark.parametrize("where", ["connect", "headers", "body", "redirects"])
def test_one_deadline_for_all_of_it(where: str) -> None:
    """Each of these hosts would go on for ever, and is never silent for as long as the deadline."""

    async def drip(writer: StreamWriter) -> None:
        if where == "redirects":
            await asyncio.sleep(0.2)  # three are followed
            writer.write(redirect("/again"))
            await writer.drain()
            return
        if where != "connect":
            end = b"\r\n\r\n" if where == "body" else b""
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000" + end)
        while where != "connect":  # a byte at a time
            writer.write(b"0")
            await writer.drain()
            await asyncio.sleep(0.05)
        await asyncio.Event().wait()

    with pytest.raises(FetchRefused, match=r"longer than 0.5 s"):
        get(drip, FetchLimits(10_000_000, 0.5, LOOPBACK))


@pytest.mark.parametrize(
    "reply",
    [b"", b"\x00" * 100, b"HTTP/9.9 200\r\n\r\n", b"SSH-2.0-OpenSSH\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 9000,
     b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000],
)  # fmt: skip
def test_nonsense_answers_are_refused(reply: bytes) -> None:
    with pytest.raises(FetchRefused, match="cannot be reached"):
        get(reply)


def test_nobody_there_and_no_such_name() -> None:
    unused = socket.socket()
    unused.bind(("127.0.0.1", 0))
    with pytest.raises(FetchRefused, match="cannot be reached"):
        asyncio.run(fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", OPEN))

    class NoSuchName(ScriptedResolver):
        async def resolve(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError("Name or service not known")

    with pytest.raises(FetchRefused, match="cannot be reached"):
        asyncio.run(fetch("http://nobody.example/", OPEN, NoSuchName()))
