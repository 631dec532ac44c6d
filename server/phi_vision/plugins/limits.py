"""What a request may be, checked before any work is done for it: for every route that takes a body."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.config import GuardSettings
from phi_vision.errors import RequestError
from phi_vision.plugins import media
from phi_vision.plugins.lifecycle import Lifecycle

READING = ("GET", "HEAD", "OPTIONS")  # methods that bring no work

BODY_TIMEOUT_S = 60  # to send a request's body
MAX_JSON_VALUES = 500_000  # a full context of token ids is 131,072; each value costs up to 100 bytes
MAX_JSON_DEPTH = 64
MAX_MESSAGES = 1024
MAX_PARTS = 4096  # of all messages together


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
        self._max_bytes = GuardSettings.from_environment().max_body_bytes

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
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    body = await self._read(Headers(scope=scope), receive)
                _check_values(body or b"")
            except TimeoutError:
                error = RequestError(f"the body took longer than {BODY_TIMEOUT_S} s", status=408)
                await error_response(error)(scope, receive, send)
            except RequestError as error:
                await error_response(error)(scope, receive, send)
            else:
                if body is not None:
                    media.begin_request()
                    await self.app(scope, _replay(body, receive), send)

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


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives this body first."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _check_values(body: bytes) -> None:
    """Bound what parsing makes of the body: a byte of JSON can become a hundred in memory."""
    if sum(body.count(sign) for sign in (b"[", b"{", b",")) > MAX_JSON_VALUES:
        raise RequestError(f"the JSON has more than {MAX_JSON_VALUES} values")


def check_shape(body: Mapping[str, Any]) -> None:
    """Bound depth, messages and parts of a chat request.

    Raises:
        RequestError: naming the field at fault.
    """
    level: list[Any] = list(body.values())
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            break
    else:
        raise RequestError(f"the JSON is nested deeper than {MAX_JSON_DEPTH}")
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    if len(messages) > MAX_MESSAGES:
        raise RequestError(f"{len(messages)} messages; at most {MAX_MESSAGES}", param="messages")
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = sum(len(content) for content in contents if isinstance(content, list))
    if parts > MAX_PARTS:
        raise RequestError(f"{parts} content parts; at most {MAX_PARTS} in one request", param="messages")
