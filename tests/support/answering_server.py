"""A server whose answers are a function of what it is sent, and what goes wrong with it is what a test says.

`AnsweringServer` runs this file in a process of its own. The text of a picture is `text_of(its bytes)`; of
bodies without one, `text_of(the body's text)`. There are no clocks in it, unless an answer is to take a time.

| route | what it does |
|---|---|
| `GET /asks` | `asks` and `answered` (times, by text), `in_flight`, `most_in_flight` |
| `POST /faults` | adds a fault, see `AnsweringServer.fail`; `{}` ends all of them and lets go what hangs |
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from phi_vision.client.process import ServerProcess
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODEL = "answering"
TASKS = ("caption", "ocr", "vqa")


def text_of(data: bytes | str, page: int | None = None) -> str:
    """The answer to this picture or document, or to this page of it, from 1."""
    digest = hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()[:16]
    return f"read {digest}" + ("" if page is None else f" page {page}")


class AnsweringServer(ServerProcess):
    """The server in a process of its own.

    Args:
        folder: where its log goes.
        port: where it listens, for a start in the place of one that ended; 0: the system chooses.
        flags: see `main`.
    """

    def __init__(self, folder: Path, *flags: str, port: int = 0) -> None:
        command = [sys.executable, __file__, "--port", str(port), *flags]
        super().__init__(command, folder / f"{uuid.uuid4().hex}.log", ready_path="/v1/models")

    def fail(
        self, fault: str, count: int | None = 1, text: str | None = None, retry_after: int | None = None
    ) -> None:
        """Have the next requests fail.

        Args:
            fault: a status (`"429"`), `"drop"` (the connection breaks) or `"hang"` (until `mend`).
            count: how many of them; None: all.
            text: only those that would be answered with it.
            retry_after: seconds that a status names.
        """
        fault_json = {"fault": fault, "count": count, "text": text, "retry_after": retry_after}
        httpx.post(f"{self.url}/faults", json=fault_json).raise_for_status()

    def mend(self) -> None:
        """End all faults, and answer what hangs."""
        httpx.post(f"{self.url}/faults", json={}).raise_for_status()

    @property
    def state(self) -> dict[str, Any]:
        """`GET /asks`."""
        state: dict[str, Any] = httpx.get(f"{self.url}/asks").raise_for_status().json()
        return state

    @property
    def asks(self) -> dict[str, int]:
        """How often each text was asked for."""
        asks: dict[str, int] = self.state["asks"]
        return asks


class _Faults:
    """What is to go wrong.

    Args:
        faults: from the start.
    """

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        self._faults = faults
        self._mended = asyncio.Event()

    async def put(self, request: Request) -> Response:
        fault = await request.json()
        if fault:
            self._faults.append(fault)
        else:
            self._faults.clear()
            self._mended.set()
            self._mended = asyncio.Event()
        return JSONResponse({})

    def next(self, text: str) -> dict[str, Any] | None:
        for fault in self._faults:
            if fault["text"] in (None, text):
                if fault["count"] is not None:
                    fault["count"] -= 1
                    if not fault["count"]:
                        self._faults.remove(fault)
                return fault
        return None

    async def wait_until_mended(self) -> None:
        await self._mended.wait()


class _Answers:
    """The routes that ask the model."""

    def __init__(self, faults: _Faults, capacity: int | None, slots: int, seconds: float) -> None:
        self._faults = faults
        self._capacity = capacity
        self._slots = asyncio.Semaphore(slots)
        self._seconds = seconds
        self._asks: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._in_flight = self._most_in_flight = 0

    async def show(self, _: Request) -> Response:
        return JSONResponse(
            {
                "asks": self._asks,
                "answered": self._answered,
                "in_flight": self._in_flight,
                "most_in_flight": self._most_in_flight,
            }
        )

    def route(
        self, reads: Callable[[Any], str], answers: Callable[[Any, str], Any]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route that reads its text from the body and answers with it."""

        async def answer(request: Request) -> Response:
            try:
                body = await request.json()
            except ClientDisconnect:
                return Response()
            if self._capacity is not None and self._in_flight >= self._capacity:
                return _error(429, "the queue is full", 1)
            text = reads(body)
            self._asks[text] += 1
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
            try:
                fault = self._faults.next(text)
                if fault is not None and fault["fault"] == "hang":
                    await self._faults.wait_until_mended()
                elif fault is not None and fault["fault"] == "drop":
                    return _Drop()
                elif fault is not None:
                    return _error(int(fault["fault"]), "as asked", fault["retry_after"])
                if self._seconds:
                    async with self._slots:
                        await asyncio.sleep(self._seconds)
            finally:
                self._in_flight -= 1
            self._answered[text] += 1
            return JSONResponse(answers(body, text))

        return answer


class _Drop(Response):
    """No answer: the connection breaks."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # The server closes a connection whose application ends in the midst of an answer.
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionAbortedError


def _error(status: int, message: str, retry_after: int | None) -> Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = {"error": {"message": message, "type": "fault", "param": None, "code": status}}
    return JSONResponse(body, status_code=status, headers=headers)


def _bytes_of(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


def _text_of_chat(body: Any) -> str:
    texts = []
    for message in body["messages"]:
        content: Any = message["content"]
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "image_url":
                return text_of(_bytes_of(part["image_url"]["url"]))
            if part["type"] == "file":
                page = part["file"].get("pages")
                return text_of(_bytes_of(part["file"]["file_data"]), page and int(page))
            texts.append(part["text"])
    return text_of("\n".join(texts))


def _text_of_document(body: Any) -> str:
    document = body["document"]
    pages = body.get("pages")
    return text_of(_bytes_of(document[document["type"]]), pages and pages[0] + 1)


def _chat(body: Any, text: str) -> dict[str, Any]:
    tokens = [{"token": token, "logprob": -0.125, "top_logprobs": []} for token in text.split()]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": tokens} if body.get("logprobs") else None,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": len(tokens), "total_tokens": 100 + len(tokens)}
    answer = {"id": f"chatcmpl-{text.replace(' ', '-')}", "object": "chat.completion", "created": 0}
    return answer | {"model": body["model"], "choices": [choice], "usage": usage}


def _ocr(body: Any, text: str) -> dict[str, Any]:
    words: list[dict[str, Any]] = []
    for word in text.split():
        start = words[-1]["start_index"] + len(words[-1]["text"]) + 1 if words else 0
        words.append({"text": word, "confidence": 0.875, "start_index": start})
    page = {
        "index": (body.get("pages") or [0])[0],
        "markdown": text,
        "images": [],
        "dimensions": None,
        "status": "complete",
        "rotation": 0,
        "tiles": 1,
        "attempts": [],
        "usage": {"prompt_tokens": 100, "completion_tokens": len(words)},
        "confidence_scores": {
            "average_page_confidence_score": 0.875,
            "minimum_page_confidence_score": 0.875,
            "word_confidence_scores": words,
        },
    }
    return {"pages": [page], "model": body["model"], "usage_info": {"pages_processed": 1}}


def _app(answers: _Answers, faults: _Faults, *, has_ocr: bool, has_tasks: bool) -> Starlette:
    names = [MODEL, *(f"{MODEL}:{task}" for task in TASKS if has_tasks)]
    tasks = [{"id": task, "models": [f"{MODEL}:{task}"]} for task in TASKS]

    async def show_models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    async def show_tasks(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": tasks})

    routes = [
        Route("/readyz", show_models),
        Route("/v1/models", show_models),
        Route("/asks", answers.show),
        Route("/faults", faults.put, methods=["POST"]),
        Route("/v1/chat/completions", answers.route(_text_of_chat, _chat), methods=["POST"]),
    ]
    if has_tasks:
        routes.append(Route("/v1/tasks", show_tasks))
    if has_ocr:
        routes.append(Route("/v1/ocr", answers.route(_text_of_document, _ocr), methods=["POST"]))
    return Starlette(routes=routes)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--capacity", type=int, help="requests at once; more get 429")
    parser.add_argument("--seconds", type=float, default=0, help="of each answer")
    parser.add_argument("--slots", type=int, default=1, help="answers at once, if they take a time")
    parser.add_argument("--no-ocr", action="store_true", help="has no /v1/ocr")
    parser.add_argument("--no-tasks", action="store_true", help="is none of ours")
    parser.add_argument("--fault", action="append", default=[], type=json.loads, help="as at `POST /faults`")
    options = parser.parse_args(argv)
    faults = _Faults(options.fault)
    answers = _Answers(faults, options.capacity, options.slots, options.seconds)
    app = _app(answers, faults, has_ocr=not options.no_ocr, has_tasks=not options.no_tasks)
    with socket.create_server(("127.0.0.1", options.port)) as listening:
        print(f"  listening  http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
        # A drop is no error that is worth a traceback.
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, timeout_keep_alive=900, timeout_graceful_shutdown=0
        )
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main()
