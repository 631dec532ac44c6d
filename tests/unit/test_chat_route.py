"""What the chat route holds while a request is at work."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from phi_vision.serving.middleware.body_reader import PARSED_BODY
from phi_vision.serving.routes import chat
from vllm.entrypoints.openai.chat_completion import api_router as vllm_chat


def test_the_chat_route_lets_go_of_the_body_before_it_waits_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds the files in base64."""
    body = {"messages": [{"role": "user", "content": "x"}]}
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{}", "more_body": False},
        {"type": "http.disconnect"},
    ]
    left: list[Any] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def vllms_route(request: Any, raw_request: Request) -> None:
        left.extend([body, raw_request.scope.get(PARSED_BODY), await raw_request.receive()])

    monkeypatch.setattr(
        chat, "_resolve", lambda body, service: SimpleNamespace(media=(), request=None, task=None)
    )
    monkeypatch.setattr(vllm_chat, "create_chat_completion", vllms_route)
    app = SimpleNamespace(state=SimpleNamespace(phi_vision=None))
    request = Request({"type": "http", "app": app, PARSED_BODY: dict(body)}, receive)
    asyncio.run(chat.create_chat_completion(body, request))
    assert left == [{}, None, {"type": "http.disconnect"}]
