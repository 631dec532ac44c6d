"""`x-phi-vision-rope`: on every route of a server with a stub for the engine, and the middleware alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from phi_vision.model.rope_mode import HEADER, modes
from phi_vision.serving.middleware.rope_header import RopeHeader, request_modes

from tests.support.stub_server import ROUTES, StubServer, ask


def usage_of(response: httpx.Response) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["completion_tokens"]
    return usage["input_tokens"], usage["output_tokens"]


@pytest.mark.parametrize("path", ROUTES)
def test_the_modes_of_an_answer(stub: StubServer, path: str) -> None:
    """Whatever `max_tokens` says, which is the rest of the context or much of it."""
    of_template = usage_of(ask(stub, path, "x" * 3000))[0] - 3000
    for prompt, expected in ((3000, "short"), (4092, "short,long"), (5000, "long")):
        text = "x" * (prompt - of_template)
        whole = ask(stub, path, text)
        tokens = usage_of(whole)
        assert tokens[0] == prompt
        assert whole.headers[HEADER] == ",".join(modes(*tokens)) == expected
        # The head of a stream is sent when it starts.
        assert ask(stub, path, text, stream=True).headers[HEADER] == expected.split(",")[0]


def test_prompts_and_choices_of_one_request_are_named_together(stub: StubServer) -> None:
    assert ask(stub, "/v1/completions", ["x" * 50, "x" * 5000]).headers[HEADER] == "short,long"
    assert ask(stub, "/v1/completions", ["x" * 5000, "x" * 6000]).headers[HEADER] == "long"
    choices = ask(stub, "/v1/completions", "x" * 4090, n=3, temperature=1)
    assert len(choices.json()["choices"]) == 3
    assert choices.headers[HEADER] == "short,long"


def test_errors_name_no_mode(stub: StubServer) -> None:
    response = ask(stub, "/v1/completions", "x", max_tokens=-1)
    assert response.status_code == 400
    assert HEADER not in response.headers


def test_the_length_of_an_answer_is_left_alone(stub: StubServer) -> None:
    """It used to be cut at the end of the window where nobody had asked for a length."""
    ask(stub, "/v1/chat/completions", "x" * 3000)
    request = stub.requests[-1]
    assert request["sampling"]["max_tokens"] == 16384 - len(request["prompt_token_ids"])


def app_that_asks_late(per_request: bool) -> FastAPI:
    """Routes that send the head of a stream before an engine is asked, or ask none."""
    app = FastAPI()
    app.add_middleware(RopeHeader)
    app.state.phi_vision_rope_per_request = per_request

    async def answer(asks: bool) -> AsyncIterator[str]:
        yield "created "
        await asyncio.sleep(0)
        if asks:
            modes = request_modes.get()
            assert modes is not None
            modes.append("long")
        yield "answered "
        yield "ended"

    @app.post("/late")
    async def late() -> StreamingResponse:
        return StreamingResponse(answer(asks=True))

    @app.post("/never")
    async def never() -> StreamingResponse:
        return StreamingResponse(answer(asks=False))

    @app.post("/refused")
    async def refused() -> JSONResponse:
        return JSONResponse({"error": {}}, status_code=400)

    return app


@pytest.mark.parametrize(
    ("path", "per_request", "mode"),
    [("/late", True, "long"), ("/never", True, None), ("/refused", True, None), ("/never", False, None)],
)
def test_header_waits_for_the_mode_and_loses_nothing(path: str, per_request: bool, mode: str | None) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app_that_asks_late(per_request))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path)

    response = asyncio.run(ask())
    assert response.headers.get(HEADER) == mode
    assert response.text == ('{"error":{}}' if path == "/refused" else "created answered ended")
    assert response.status_code == (400 if path == "/refused" else 200)
