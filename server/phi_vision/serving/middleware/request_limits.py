"""What a request may be, checked before any work is done for it: for every route that takes a body."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.config import GuardSettings
from phi_vision.errors import RequestError
from phi_vision.serving import media_connector
from phi_vision.serving.lifecycle import Lifecycle
from phi_vision.serving.middleware.body import BodyLimits
from phi_vision.serving.middleware.fields import FieldRules

READING = ("GET", "HEAD", "OPTIONS")  # methods that bring no work

INLINE_BYTES = 50_000  # a body up to here is parsed at once, a larger one in a thread

PRIORITY = "x-vllm-priority"  # a header

PARSED = "phi_vision_body"  # in the scope: the request's JSON object


def error_response(error: RequestError) -> JSONResponse:
    """The error as OpenAI's clients expect it."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


class RequestLimits:
    """Middleware around all routes, behind the check of the key: the queue, then the body.

    A request that is over the queue's limit is answered without reading it. The body is read here,
    so that a slow or endless sender never reaches a handler.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        settings = GuardSettings.from_environment()
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.client_timeout_s
        self._parser = ThreadPoolExecutor(1, "phi-vision-body")  # one at a time: each can take much memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        lifecycle: Lifecycle = scope["app"].state.phi_vision_lifecycle
        if (refusal := lifecycle.refusal()) is not None:
            await error_response(refusal)(scope, receive, send)
            return
        with lifecycle.one_request():
            try:
                _check_priority(Headers(scope=scope))
                async with asyncio.timeout(self._timeout_s):
                    body = await self._read(Headers(scope=scope), receive)
                if body:
                    scope[PARSED] = await self._checked(body, scope)
            except TimeoutError:
                error = RequestError(f"the body took longer than {self._timeout_s:g} s", status=408)
                await error_response(error)(scope, receive, send)
            except RequestError as error:
                await error_response(error)(scope, receive, send)
            else:
                if body is not None:
                    media_connector.begin_request()
                    await self.app(scope, _replay(body, receive), send)

    async def _checked(self, body: bytes, scope: Scope) -> dict[str, Any]:
        """The JSON object, within all bounds and without fields that its route would not honour."""
        state = scope["app"].state
        limits: BodyLimits = state.phi_vision_body_limits
        rules: FieldRules = state.phi_vision_field_rules

        def check() -> dict[str, Any]:
            parsed = limits.parse(body)
            rules.check(scope["path"], parsed)
            return parsed

        if len(body) <= INLINE_BYTES:
            return check()
        return await asyncio.get_running_loop().run_in_executor(self._parser, check)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None when the client has gone."""
        too_large = RequestError(f"the request is larger than {self._max_bytes / 1e6:g} MB", status=413)
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > 2 * self._max_bytes:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._max_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
            # A little more is read and dropped: a client that is cut off while it sends may not see why.
            if size > 2 * self._max_bytes or (size > self._max_bytes and not message.get("more_body")):
                raise too_large
            if not message.get("more_body"):
                return b"".join(chunks)


def _check_priority(headers: Headers) -> None:
    """vLLM reads it as the `priority` of the request, which must fit 64 bits, and does not look."""
    priority = headers.get(PRIORITY, "0").strip()
    if len(priority) > 19 and priority.lstrip("+-").isdecimal():
        raise RequestError("a priority has at most 18 digits", param=PRIORITY)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives this body first."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
