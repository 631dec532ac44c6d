"""Requests are counted by what became of them, without a trace of what their clients sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from phi_vision.serving.middleware.request_counts import RequestCounts, note, route_of
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.scraped import value

CHAT = "/v1/chat/completions"


def send_request(app: ASGIApp, path: str = CHAT, method: str = "POST", *messages: Message) -> None:
    """A request whose client then says `messages`."""
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    asyncio.run(RequestCounts(app)(scope, receive, send))


def counted(status: str, route: str = CHAT, task: str = "none") -> float:
    return value("phi_vision_requests_total", route=route, task=task, status=status)


def refused(reason: str) -> float:
    return value("phi_vision_refusals_total", reason=reason)


@pytest.mark.parametrize(
    ("status", "as_class", "reason"),
    [
        (200, "2xx", None),
        (307, "3xx", None),
        (400, "4xx", "invalid"),
        (401, "4xx", "api_key"),
        (403, "4xx", "origin"),
        (404, "4xx", "not_found"),
        (408, "4xx", "too_slow"),
        (413, "4xx", "too_large"),
        (422, "4xx", "invalid"),
        (429, "429", "busy"),
        (500, "5xx", None),
        (503, "5xx", "unavailable"),
    ],
)
def test_the_status_of_an_answer(status: int, as_class: str, reason: str | None) -> None:
    before = counted(as_class), refused(reason or "")
    refusals = [refused(each) for each in ("invalid", "unavailable")]
    send_request(PlainTextResponse("", status))
    assert counted(as_class) == before[0] + 1
    if reason:
        assert refused(reason) == before[1] + 1
    else:
        assert refusals == [refused(each) for each in ("invalid", "unavailable")]


def test_what_is_noted_on_the_way() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def deeper() -> None:
            note(task="ocr")

        await asyncio.create_task(deeper())
        note(refusal="queue_full")
        await PlainTextResponse("", 429)(scope, receive, send)

    before = counted("429", task="ocr"), refused("queue_full"), refused("busy")
    send_request(app)
    after = counted("429", task="ocr"), refused("queue_full"), refused("busy")
    assert after == (before[0] + 1, before[1] + 1, before[2])


async def _never_answers(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def _answers_who_has_gone(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await PlainTextResponse("null")(scope, receive, send)  # as FastAPI does for a route that returns None


async def _finds_nobody(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("")(scope, receive, send)
    await receive()  # after the answer, which every client ends with


@pytest.mark.parametrize(
    ("app", "status"),
    [(_never_answers, "disconnected"), (_answers_who_has_gone, "disconnected"), (_finds_nobody, "2xx")],
)
def test_clients_that_have_gone(app: ASGIApp, status: str) -> None:
    before = counted(status)
    send_request(app, CHAT, "POST", {"type": "http.disconnect"})
    assert counted(status) == before + 1


def test_an_error_of_a_route_is_a_500() -> None:
    async def app(*_: Any) -> None:
        raise ZeroDivisionError

    before = counted("5xx")
    with pytest.raises(ZeroDivisionError):
        send_request(app)
    assert counted("5xx") == before + 1


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (CHAT, CHAT),
        ("/v1/files/file-0123/content", "/v1/files"),
        ("/v1/messages/count_tokens", "/v1/messages"),
        ("/v1/filesystem", "other"),
        ("/sk-secret", "other"),
        ("", "other"),
    ],
)
def test_paths_of_clients_are_no_labels(path: str, route: str) -> None:
    assert route_of(path) == route


def test_a_probe_that_fails_is_no_refusal() -> None:
    before = refused("unavailable"), counted("5xx", "other")
    send_request(PlainTextResponse("", 503), "/readyz", "GET")
    assert (refused("unavailable"), counted("5xx", "other")) == (before[0], before[1] + 1)
