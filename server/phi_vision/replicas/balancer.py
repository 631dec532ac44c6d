"""What answers on the common address: what only all servers together know, and a relay for the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.replicas.members import Member, Members
from phi_vision.replicas.merged_metrics import merge
from phi_vision.replicas.relay import RETRY_AFTER_S, Relay
from phi_vision.serving.http import error_response

_PATIENCE_S = 10.0  # for what each server says of itself

Handler = Callable[[Request], Awaitable[Response]]


class Balancer:
    """The application, and its switch.

    Args:
        members: the servers.
        http: a `relay.session`.
        limits: of each server.
    """

    def __init__(self, members: Members, http: aiohttp.ClientSession, limits: Limits) -> None:
        self._members = members
        self._http = http
        self.relay = Relay(
            members,
            http,
            max_body_bytes=limits.max_body_bytes,
            max_file_bytes=limits.max_file_bytes,
            timeout_s=limits.client_timeout_s,
        )
        own: dict[str, Handler] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/health": self._readyz,
            "/ping": self._readyz,
            "/metrics": self._metrics,
            "/load": self._load,
            "/v1/queue": self._queue,
            "/v1/plan": self._plan,
        }
        self.app = Starlette(
            routes=[Route(path, handler) for path, handler in own.items()],
            exception_handlers={RequestError: _render},
        )
        self.app.router.redirect_slashes = False
        self.app.router.default = self.relay
        self.app.state.phi_vision_limits = limits  # for `serving.connections`

    def stop(self) -> None:
        """Take no more requests."""
        self.relay.stopping = True

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _: Request) -> Response:
        """200 while one server is ready, with the state of each."""
        servers = [{"server": member.number, "status": member.state} for member in self._members.all]
        ready = self._members.any_ready and not self.relay.stopping
        status = "stopping" if self.relay.stopping else "ok" if ready else self._members.state
        return JSONResponse({"status": status, "servers": servers}, status_code=200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        """Those of all servers, each sample with the label `server`."""
        answers = await self._ask_all(request)
        media_type = answers[0][1].headers.get("content-type", "text/plain")
        merged = merge({str(member.number): text for member, _, text in answers})
        return PlainTextResponse(merged, headers={"content-type": media_type})

    async def _load(self, _: Request) -> Response:
        """vLLM's figure is that of one server."""
        raise RequestError("several servers answer here: GET /v1/queue says how busy they are", status=404)

    async def _queue(self, request: Request) -> Response:
        """The sums of all servers, and each for itself."""
        servers = await self._all_json(request)
        sums = {name: sum(server[name] for server in servers) for name in ("requests", "max_requests")}
        return JSONResponse({**sums, "servers": servers})

    async def _plan(self, request: Request) -> Response:
        """The first server's plan, and each for itself. They differ in the memory that was free."""
        servers = await self._all_json(request)
        first = {name: value for name, value in servers[0].items() if name != "server"}
        return JSONResponse({**first, "servers": servers})

    async def _all_json(self, request: Request) -> list[dict[str, Any]]:
        answers = await self._ask_all(request)
        return [{"server": member.number, **json.loads(text)} for member, _, text in answers]

    async def _ask_all(self, request: Request) -> list[tuple[Member, aiohttp.ClientResponse, str]]:
        """What each server that has started answers to this request.

        Raises:
            RequestError: none does.
        """
        headers = {name: value for name, value in request.headers.items() if name != "connection"}

        async def ask(member: Member) -> tuple[Member, aiohttp.ClientResponse, str] | None:
            try:
                async with (
                    asyncio.timeout(_PATIENCE_S),
                    self._http.get(f"{member.url}{request.url.path}", headers=headers) as answer,
                ):
                    return member, answer, await answer.text()
            except (aiohttp.ClientError, TimeoutError):
                return None

        asked = await asyncio.gather(*(ask(member) for member in self._members.all if member.reachable))
        answers = [answer for answer in asked if answer is not None]
        if good := [answer for answer in answers if answer[1].status == 200]:
            return good
        if refused := [answer for answer in answers if answer[1].status < 500]:
            _, answer, text = refused[0]
            message = json.loads(text).get("error", {}).get("message", answer.reason)
            raise RequestError(message, status=answer.status)
        raise RequestError(
            f"no server is ready: {self._members.state}", status=503, retry_after_s=RETRY_AFTER_S
        )


async def _render(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # registered for this class alone
    return error_response(error)
