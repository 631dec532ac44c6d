"""Requests to an application in the same process."""

from __future__ import annotations

import asyncio

import pytest
from phi_vision.serving.batch_places import is_batch_line
from phi_vision.serving.batches import in_process
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send


def test_the_application_sees_an_ordinary_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        seen = {
            "path": request.url.path,
            "host": request.headers["host"],
            "key": request.headers["authorization"],
            "body": await request.json(),
            "batch": is_batch_line.get(),
        }
        await JSONResponse(seen, status_code=201, headers={"x-a": "b"})(scope, receive, send)

    answer = asyncio.run(in_process.post(app, "/v1/x", b'{"a": 1}', {"authorization": "Bearer k"}))
    assert (answer.status, answer.headers["x-a"]) == (201, "b")
    assert answer.body == b'{"path":"/v1/x","host":"localhost","key":"Bearer k","body":{"a":1},"batch":true}'
    assert not is_batch_line.get()


def test_an_answer_in_pieces() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(iter([b"a", b"b"]))(scope, receive, send)

    assert asyncio.run(in_process.post(app, "/", b"{}", {})).body == b"ab"


def test_an_application_that_fails_has_answered_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    assert asyncio.run(in_process.post(app, "/", b"{}", {})).status == 500


def test_who_cancels_is_a_client_that_disconnects() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            seen.append((await receive())["type"])
        await asyncio.sleep(0)
        seen.append("ended")

    async def scenario() -> None:
        asking = asyncio.create_task(in_process.post(app, "/", b"{}", {}))
        while not seen:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert seen == ["http.request", "http.disconnect", "ended"]  # before the place is free

    asyncio.run(asyncio.wait_for(scenario(), 120))
