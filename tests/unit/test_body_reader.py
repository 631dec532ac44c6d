"""How a body is read: its size, its time, and what the application then receives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from phi_vision.serving.middleware.body_reader import INLINE_BYTES, PARSED_BODY, BodyReader

MAX_BYTES = 2 * INLINE_BYTES


class Client:
    """Sends these chunks, then nothing more; an exception in their place is raised."""

    def __init__(self, *chunks: bytes, ends: bool = True) -> None:
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
        ]
        if ends:
            self.messages[-1]["more_body"] = False
        self.received = 0

    async def receive(self) -> dict[str, Any]:
        if not self.messages:
            await asyncio.Event().wait()  # a client that says nothing
        self.received += 1
        return self.messages.pop(0)


def send_request(
    client: Client, headers: dict[str, str] | None = None, timeout_s: float = 600
) -> tuple[int, dict[str, Any], list[Any]]:
    """Status, error, and (scope, body) of each request that reached the application."""
    reached: list[Any] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        reached.append((scope, (await receive())["body"]))
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    state = SimpleNamespace(
        phi_vision_body_limits=SimpleNamespace(parse=json.loads),
        phi_vision_field_rules=SimpleNamespace(check=lambda path, body: None),
    )
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        "app": SimpleNamespace(state=state),
    }
    reader: Any = BodyReader(app, max_bytes=MAX_BYTES, timeout_s=timeout_s)
    asyncio.run(reader(scope, client.receive, send))
    if not sent:
        return 0, {}, reached
    error = json.loads(sent[1]["body"])["error"] if len(sent) > 1 else {}
    return sent[0]["status"], error, reached


@pytest.mark.parametrize("text_bytes", [10, INLINE_BYTES])  # the second is parsed in a thread
def test_the_application_gets_the_body_and_the_parsed_object(text_bytes: int) -> None:
    body = json.dumps({"text": "x" * text_bytes}).encode()
    status, _, [(scope, received)] = send_request(Client(body[:5], body[5:]))
    assert status == 200 and received == body and scope[PARSED_BODY] == json.loads(body)


def test_an_empty_body_is_not_json() -> None:
    status, _, [(scope, received)] = send_request(Client(b""))
    assert status == 200 and received == b"" and PARSED_BODY not in scope


def test_a_body_over_the_limit_is_read_to_its_end_and_refused() -> None:
    client = Client(*[bytes(MAX_BYTES // 4)] * 6)
    status, error, reached = send_request(client)
    assert status == error["code"] == 413 and not reached and client.received == 6


def test_a_body_without_end_is_not_read_for_long() -> None:
    client = Client(*[bytes(MAX_BYTES // 4)] * 100)
    assert send_request(client)[0] == 413 and client.received == 9


def test_a_body_that_announces_too_much_is_not_read() -> None:
    client = Client(b"{}")
    assert send_request(client, {"content-length": str(2 * MAX_BYTES + 1)})[0] == 413
    assert client.received == 0


def test_a_slow_sender_is_answered_with_408() -> None:
    status, error, reached = send_request(Client(b"{", ends=False), timeout_s=0)
    assert status == error["code"] == 408 and not reached


def test_a_client_that_disconnects_gets_no_answer() -> None:
    client = Client(b"{", ends=False)
    client.messages.append({"type": "http.disconnect"})
    assert send_request(client) == (0, {}, [])


@pytest.mark.parametrize(
    ("priority", "status"), [("9" * 18, 200), ("-5", 200), ("9" * 20, 400), ("x" * 30, 200)]
)
def test_a_priority_fits_64_bits(priority: str, status: int) -> None:
    answered, error, _ = send_request(Client(b"{}"), {"x-vllm-priority": priority})
    assert answered == status and (status == 200 or error["param"] == "x-vllm-priority")
