"""A balancer in front of servers that answer as a test says, all in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
from aiohttp import web
from phi_vision.limits import Limits
from phi_vision.replicas.balancer import Balancer
from phi_vision.replicas.front import http_server
from phi_vision.replicas.members import READY, Member, Members
from phi_vision.replicas.relay import session

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NOBODY = "http://127.0.0.1:1"  # where nobody listens


@dataclass
class Upstream:
    """A server, and what reached it."""

    handler: Handler
    asked: list[web.BaseRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    left: int = 0  # clients that went before the answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        try:
            return await self.handler(request)
        except asyncio.CancelledError:
            self.left += 1
            raise


@dataclass
class Balanced:
    """The balancer, what it knows, and a client of it."""

    balancer: Balancer
    members: Sequence[Member]
    client: httpx.AsyncClient
    url: str


@asynccontextmanager
async def balanced(*servers: Upstream | None, limits: Limits | None = None) -> AsyncIterator[Balanced]:
    """Members that are ready, one for each server; of None one that ended a moment ago."""
    async with AsyncExitStack() as stack:
        members = []
        for number, server in enumerate(servers, 1):
            url = NOBODY if server is None else await stack.enter_async_context(_running(server))
            members.append(Member(number, url, READY, was_ready=True))
        http = await stack.enter_async_context(session())
        balancer = Balancer(Members(members), http, limits or Limits())
        front = http_server(balancer.app)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(front.serve([listening]))
        while not front.started:
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False))
        try:
            yield Balanced(balancer, members, client, url)
        finally:
            front.should_exit = True
            await serving


@asynccontextmanager
async def _running(server: Upstream) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(status: int = 200, text: str = "", **headers: str) -> Upstream:
    """It gives this answer to everything."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=named)

    return Upstream(handler)


def dying(after: int = 0) -> Upstream:
    """It ends each connection, after so many pieces of an answer."""

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if after:
            await answer.prepare(request)
        for _ in range(after):
            await answer.write(b"piece ")
        assert request.transport is not None
        request.transport.abort()
        return answer

    return Upstream(handler)


def waiting(until: asyncio.Event, before: bytes = b"") -> Upstream:
    """It answers when it is let; a first piece comes before."""

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if before:
            await answer.prepare(request)
            await answer.write(before)
        await until.wait()
        if not before:
            await answer.prepare(request)
        await answer.write(b"late")
        return answer

    return Upstream(handler)
