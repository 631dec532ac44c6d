"""Asks any OpenAI-compatible server the questions of a data set, on the queue and the runner of `batch`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from phi_vision.batch.any_server import AnyServerAsk
from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.pages import Pages
from phi_vision.batch.progress import ProgressBar, ProgressLines, Rates
from phi_vision.batch.queue import Queue
from phi_vision.batch.runner import Progress, run
from phi_vision.batch.sending import understanding
from phi_vision.batch.servers import Server, Servers, Unavailable
from phi_vision.batch.work import Item, ItemError, TryLater
from phi_vision.cli.terminal import print_status
from phi_vision.client import exchange
from phi_vision.client.exchange import Endpoint
from phi_vision.client.process import ServerProcess
from phi_vision.client.text import one_line
from phi_vision.tasks.presets import PRESETS

_NULL = type(None)


@dataclass(frozen=True)
class Served:
    """What is known of a server.

    Args:
        tasks: a model name for each task preset that it has; empty of a server that is not ours.
        model: to ask where it has no presets.
        plan: what ours says of its precisions, see `GET /v1/plan`.
    """

    tasks: dict[str, str]
    model: str
    plan: dict[str, Any] | None


class QuestionAsk(AnyServerAsk[dict[str, Any]]):
    """Asks an item that is a `Question.request`, through the chat.

    A server with our presets is asked by task. Any other is asked the same in words: prompt, system message
    and sampling of the preset stand in the request.

    Args:
        servers: one.
        pages: reads the pictures; is not closed.
        model: to ask as any other server, under this name.
        http: see `AnyServerAsk`.
    """

    def __init__(
        self,
        servers: Servers,
        pages: Pages,
        model: str | None = None,
        *,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(servers, http)
        self._pages = pages
        self._model = model
        self.served: Served | None = None

    async def _meet(self, server: Server) -> Served:
        if self.served is None:
            self.served = await self._look(server)
        return self.served

    async def _look(self, server: Server) -> Served:
        try:
            with understanding():
                names = exchange.model_names(await self._get(server, "/models"))
            if not names:
                raise Unavailable("serves no model")
        except ItemError as error:
            raise Unavailable(f"is in trouble: {error}") from error
        if self._model is not None:
            return Served({}, self._model, None)
        try:
            with understanding():
                tasks = exchange.tasks(await self._get(server, "/tasks"))
        except ItemError:  # it is none of ours
            return Served({}, names[0], None)
        with contextlib.suppress(ItemError):
            return Served(tasks, names[0], await self._get(server, "/plan"))
        return Served(tasks, names[0], None)

    async def _question(self, item: Item) -> dict[str, Any]:
        """The request but for what depends on the server."""
        content = [(await self._pages.read({"source": path})).part for path in item.request["images"]]
        return {**item.request, "content": content}

    async def _ask(self, server: Server, question: dict[str, Any]) -> dict[str, Any]:
        body = _body(await self._meet(server), question)
        started_s = time.monotonic()
        reply = await self._post(server, "/chat/completions", body)
        with understanding():
            choices = exchange.field(reply.body, "choices", list)
            if len(choices) != 1:
                exchange.not_understood(f"it has {len(choices)} choices")
            return {
                "answer": exchange.field(exchange.field(choices[0], "message", dict), "content", str, _NULL)
                or "",
                "end": exchange.field(choices[0], "finish_reason", str, _NULL),
                "model": exchange.field(reply.body, "model", str),
                "usage": exchange.field(reply.body, "usage", dict, _NULL) or {},
                "seconds": round(time.monotonic() - started_s, 3),
            }


def _body(served: Served, question: dict[str, Any]) -> dict[str, Any]:
    preset, text, content = PRESETS[question["task"]], question["text"], question["content"]
    if model := served.tasks.get(question["task"]):
        asked = content + ([{"type": "text", "text": text}] if text else [])
        return {"model": model, "messages": [{"role": "user", "content": asked}], **question["extra_body"]}
    system = [{"role": "system", "content": preset.system}] if preset.system else []
    asked = [*content, {"type": "text", "text": text or preset.prompt}]
    return {
        "model": served.model,
        "messages": [*system, {"role": "user", "content": asked}],
        **preset.fields,
        **question["extra_body"],
    }


async def ask_all(
    queue: Queue,
    endpoint: Endpoint,
    fetched: Path,
    *,
    own: ServerProcess | None,
    model: str | None,
    limit: ConcurrencyLimit,
) -> None:
    """Ask every question of the queue that waits, and note in its settings how.

    Args:
        queue: of `Question.request`s.
        endpoint: whom to ask.
        fetched: a folder that stays empty: all pictures are on disk.
        own: the server, if it was started for this.
        model: see `QuestionAsk`.
        limit: how many at a time.

    Raises:
        Unreachable: no server takes requests there.
        PhiVisionError: the run cannot go on; what is answered is kept.
    """
    with contextlib.closing(Pages(fetched)) as pages:
        async with QuestionAsk(Servers([endpoint]), pages, model) as ask:
            await ask.check()
            served = ask.served
            assert served is not None
            if not served.tasks:
                print_status(
                    f"{one_line(endpoint.base_url)} has no task presets: "
                    f"{one_line(served.model)} is asked in words"
                )
            prompts = "presets" if served.tasks else "in words"
            queue.set_settings({**queue.settings, "prompts": prompts, "plan": served.plan})

            async def ask_and_look(item: Item) -> Mapping[str, Any]:
                try:
                    return await ask(item)
                except TryLater:
                    if own is not None:
                        own.check_running()  # nobody starts it again
                    raise

            with _shown(queue) as show:
                await run(queue, ask_and_look, limit, on_change=show)


@contextlib.contextmanager
def _shown(queue: Queue) -> Iterator[Callable[[Progress], None]]:
    """Takes the progress of a run that begins now."""
    rates = Rates()
    display: ProgressBar | ProgressLines = (
        ProgressBar("questions", queue.counts(), rates, sys.stderr)
        if sys.stderr.isatty()
        else ProgressLines("questions", rates, print_status)
    )

    def show(progress: Progress) -> None:
        rates.add(progress)
        display.show(progress)

    with contextlib.closing(display):
        yield show
