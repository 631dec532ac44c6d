"""Asks one item of one of the servers: a picture or a page, or a line of a batch file."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from phi_vision.batch import results
from phi_vision.batch.any_server import AnyServerAsk
from phi_vision.batch.run_settings import Question as RunQuestion
from phi_vision.batch.sending import ANSWER_TIMEOUT_S, understanding
from phi_vision.batch.servers import Server, Servers, Unavailable
from phi_vision.batch.work import NOT_IN_LINES, Item, ItemError
from phi_vision.client import exchange
from phi_vision.client.images import Input
from phi_vision.client.text import one_line

_LINE_URL = re.compile(r"/v1(/[a-z][a-z_/-]{0,60})")


class ReadsPages(Protocol):
    """Where pictures and pages come from: `pages.Pages`, or who has read them before."""

    async def read(self, request: Mapping[str, Any]) -> Input:
        """See `pages.Pages.read`."""


@dataclass
class _Known:
    """What is known of a server.

    Args:
        model: its name for the task.
        has_ocr: whether it may have the route of that name.
    """

    model: str
    has_ocr: bool = True


class FileAsk(AnyServerAsk[Input]):
    """Asks about a picture, or a page of a document.

    A page is read through `POST /v1/ocr` where the task is `ocr` alone, and the server has it; else through
    the chat.

    Args:
        servers: whom to ask.
        pages: reads the files; is not closed.
        task: what to do, as in `GET /v1/tasks`.
        prompt: instead of the task's own.
        schema: JSON schema of the answers.
        http: see `AnyServerAsk`.
        timeout_s: see `AnyServerAsk`.
    """

    def __init__(
        self,
        servers: Servers,
        pages: ReadsPages,
        task: str,
        prompt: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        http: httpx.AsyncClient | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        super().__init__(servers, http, timeout_s)
        self._pages = pages
        self._task = task
        self._prompt = prompt
        self._schema = schema
        self._is_page = task == "ocr" and not prompt and schema is None
        self._known: dict[Server, _Known] = {}
        self._meeting: defaultdict[Server, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def _meet(self, server: Server) -> _Known:
        async with self._meeting[server]:
            if server not in self._known:
                tasks = await self._tasks(server)
                self._known[server] = _Known(exchange.model_for(self._task, tasks, server.endpoint))
            return self._known[server]

    async def _tasks(self, server: Server) -> dict[str, str]:
        try:
            body = await self._get(server, "/tasks")
            with understanding():
                return exchange.tasks(body)
        except ItemError:
            pass  # it is none of ours
        try:
            body = await self._get(server, "/models")
            with understanding():
                return exchange.tasks_in(exchange.model_names(body))
        except ItemError as error:
            raise Unavailable(f"is in trouble: {error}") from error

    def _forget(self, server: Server) -> None:
        self._known.pop(server, None)

    async def _question(self, item: Item) -> Input:
        return await self._pages.read(item.request)

    async def _ask(self, server: Server, question: Input) -> dict[str, Any]:
        known = await self._meet(server)
        started_s = time.monotonic()
        try:
            result = await self._page(server, known, question) if self._is_page and known.has_ocr else None
            result = result or await self._chat(server, known, question)
        except ItemError as error:
            if error.status != 404:
                raise
            self._forget(server)  # it has another model now; the next attempt asks for its name
            raise ItemError(str(error), cause=error.cause, status=404, is_final=False) from error
        seconds = round(time.monotonic() - started_s, 3)
        return result | {"server": server.endpoint.base_url, "seconds": seconds}

    async def _page(self, server: Server, known: _Known, given: Input) -> dict[str, Any] | None:
        """None where the server has no such route."""
        body = {"model": known.model, **given.document, "confidence_scores_granularity": "word"}
        try:
            reply = await self._post(server, "/ocr", body)
        except ItemError as error:
            if error.status is not None and exchange.lacks_route(error.status, error.body):
                known.has_ocr = False
                return None
            raise
        with understanding():
            return results.of_page(reply)

    async def _chat(self, server: Server, known: _Known, given: Input) -> dict[str, Any]:
        content = [given.part] + ([{"type": "text", "text": self._prompt}] if self._prompt else [])
        body: dict[str, Any] = {
            "model": known.model,
            "messages": [{"role": "user", "content": content}],
            "logprobs": True,
        }
        if self._schema is not None:
            shape = {"name": "answer", "schema": self._schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        reply = await self._post(server, "/chat/completions", body)
        with understanding():
            return results.of_chat(reply, is_page=self._is_page)


@dataclass(frozen=True)
class _Line:
    path: str
    body: Mapping[str, Any]


class LineAsk(AnyServerAsk[_Line]):
    """Asks a line of a batch file as it is. Its result is the `response` of OpenAI's output file.

    An answer of 4xx or 5xx is an `ItemError` with its `body`.
    """

    async def _meet(self, server: Server) -> None:
        await self._get(server, "/models")

    async def _question(self, item: Item) -> _Line:
        method, url, body = (item.request.get(name) for name in ("method", "url", "body"))
        path = _LINE_URL.fullmatch(url) if isinstance(url, str) else None
        if method != "POST" or path is None:
            asked_for = one_line(f"{method} {url}")
            raise ItemError(f"a line asks POST /v1/..., not {asked_for}", cause="refused")
        if not isinstance(body, Mapping):
            raise ItemError("a line needs a body, a JSON object", cause="refused")
        if later := [name for name in NOT_IN_LINES if body.get(name)]:
            raise ItemError(f"a line of a batch is answered whole: leave `{later[0]}` out", cause="refused")
        return _Line(path[1], body)

    async def _ask(self, server: Server, question: _Line) -> dict[str, Any]:
        reply = await self._post(server, question.path, question.body)
        request_id = reply.headers.get("x-request-id") or reply.body.get("id")
        if not isinstance(request_id, str):
            request_id = uuid.uuid4().hex
        return {"status_code": 200, "request_id": request_id, "body": reply.body}


def asking(question: RunQuestion, servers: Servers, pages: ReadsPages) -> FileAsk | LineAsk:
    """What asks the items of a run.

    Args:
        question: of the run; empty where the items are lines of batch files.
        servers: whom to ask.
        pages: reads the files; is not closed.
    """
    if question.task is None:
        return LineAsk(servers)
    return FileAsk(servers, pages, question.task, question.prompt, question.schema)
