"""Hosts that answer as a test wants, all of them on loopback."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.abc import AbstractResolver
from phi_vision.media.fetch import FetchLimits, fetch, networks

LOOPBACK = networks("127.0.0.0/8, ::1")
# No test waits for these time-outs: they are far beyond what a busy machine takes.
OPEN = FetchLimits(max_bytes=100_000, timeout_s=300, allowed_networks=LOOPBACK)
CLOSED = FetchLimits(max_bytes=100_000, timeout_s=300)
BODY = b"a picture, as far as the guard is concerned"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)

Reply = bytes | Callable[[StreamWriter], Awaitable[None]]


class ScriptedResolver(AbstractResolver):
    """Answers a name with the next list of addresses each time it is asked."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): iter(lists) for name, lists in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> Any:
        self.asked.append(host)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in next(self.answers[host])
        ]

    async def close(self) -> None:
        pass


async def served(reply: Reply, use: Callable[[int], Awaitable[Any]], host: str = "127.0.0.1") -> Any:
    """Run `use(port)` with a server that reads one request and replies."""

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if callable(reply):
                await reply(writer)
            else:
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    try:
        return await use(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def get(
    reply: Reply, limits: FetchLimits = OPEN, url: str = "http://127.0.0.1:{port}/x.png", **resolver: Any
) -> bytes:
    scripted = ScriptedResolver(**resolver) if resolver else None
    return asyncio.run(served(reply, lambda port: fetch(url.format(port=port), limits, scripted)))


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
