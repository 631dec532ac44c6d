"""Requests to an ASGI application in this process, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from starlette.types import ASGIApp

URL = "http://127.0.0.1:8000"


def request(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer; `options` as httpx takes them."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as http:
            return await http.request(method, path, **options)

    return asyncio.run(send())
