"""A request to an ASGI application in this process, as a client would send it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from phi_vision.serving.batch_places import is_batch_line

logger = logging.getLogger("vllm.phi_vision.batches")


@dataclass
class Answer:
    """A response, whole."""

    status: int = 500
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


async def post(app: ASGIApp, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """The answer to a POST of JSON that is a line of a batch. Who cancels it is a client that disconnects.

    httpx's `ASGITransport` cannot disconnect: what a route has started for the request would go on.

    Args:
        app: the application, with all its middleware.
        path: of the route.
        body: JSON.
        headers: beside those that describe the body.
    """
    described = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": Headers({**headers, **described}).raw,
        "client": ("127.0.0.1", 0),
        "server": ("localhost", None),
        "state": {},
    }
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    del body  # or it would be in memory until the answer has ended
    gone = asyncio.Event()
    answer = Answer()

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    async def call() -> None:
        is_batch_line.set(True)
        try:
            await app(scope, receive, send)
        except Exception:  # after it has answered 500, if it could
            logger.exception("a line of a batch failed")

    calling = asyncio.create_task(call())
    try:
        await asyncio.shield(calling)
    finally:
        gone.set()
        await asyncio.wait([calling])
    return answer
