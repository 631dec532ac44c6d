"""Reads the body of a request within its limits, and checks it before a route sees it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.errors import RequestError
from phi_vision.serving.http import SAFE_METHODS, error_response
from phi_vision.serving.middleware.body import BodyLimits
from phi_vision.serving.middleware.fields import FieldRules

INLINE_BYTES = 50_000  # a body of up to this size is parsed at once, a larger one in a thread

PRIORITY = "x-vllm-priority"  # a header

UPLOADS = "/v1/files"  # this route reads files, which are no JSON, within limits of its own

PARSED_BODY = "phi_vision_body"  # key in the scope; its value is the request's JSON object


class BodyReader:
    """Middleware that reads and checks the whole body: a slow or endless sender never reaches a route.

    Args:
        app: the next ASGI application.
        max_bytes: size of a body at most; a larger one is answered with 413.
        timeout_s: time to send it; after that the answer is 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._parser = ThreadPoolExecutor(1, "phi-vision-body")  # one at a time: each can take much memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, check, and pass the body on to the application."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or scope["path"] == UPLOADS:
            await self.app(scope, receive, send)
            return
        try:
            _check_priority(Headers(scope=scope))
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(Headers(scope=scope), receive)
            if body:
                scope[PARSED_BODY] = await self._check(body, scope)
        except TimeoutError:
            error = RequestError(f"the body took longer than {self._timeout_s:g} s", status=408)
            await error_response(error)(scope, receive, send)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        else:
            if body is not None:
                replay = _replay(body, receive)
                del body  # up to 64 MB, not to be held until the answer has ended
                await self.app(scope, replay, send)

    async def _check(self, body: bytes, scope: Scope) -> dict[str, Any]:
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
        """The whole body; None when the client has disconnected."""
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
            # Somewhat more is read and dropped: a client that is cut off while it sends may miss the answer.
            if size > 2 * self._max_bytes or (size > self._max_bytes and not message.get("more_body")):
                raise too_large
            if not message.get("more_body"):
                return b"".join(chunks)


def _check_priority(headers: Headers) -> None:
    """vLLM takes the request's `priority` from this header without checking that it fits 64 bits."""
    priority = headers.get(PRIORITY, "0").strip()
    if len(priority) > 19 and priority.lstrip("+-").isdecimal():
        raise RequestError("a priority has at most 18 digits", param=PRIORITY)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that delivers this body first."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
