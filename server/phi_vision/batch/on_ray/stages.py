"""What the processes of a cluster do with the rows of a pipeline. They import this module.

A row of the first stage has `source`, in JSON: the name of a file need not be Unicode. The others have
`number` and `attempts` of an item's record, `request` (JSON, of the item; from `read_page` on that of an
`Input`) and `outcome` (see `outcomes`; empty at first).
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phi_vision.batch.asking import FileAsk, LineAsk, asking
from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.on_ray import outcomes
from phi_vision.batch.on_ray.own_server import OwnServer
from phi_vision.batch.pages import Pages
from phi_vision.batch.run_settings import Question
from phi_vision.batch.runner import Outcome, as_outcome
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Item, TryLater
from phi_vision.client.exchange import Endpoint
from phi_vision.client.images import Input
from phi_vision.client.process import serve_command

_PATIENCE_S = 60.0  # after which an item that no server takes goes back to the queue
_SHORTEST_WAIT_S = 0.1

Row = dict[str, Any]


def count_pages(row: Row, fetched: str) -> Row:
    """Of a document; adds `num_pages`, 0 where it cannot be opened."""
    return row | {"num_pages": asyncio.run(_pages(fetched).count_if_opened(json.loads(row["source"])))}


def read_page(row: Row, fetched: str) -> Row:
    """A picture, or a page as a file by itself: what is asked. What cannot be read has its outcome."""
    try:
        given = asyncio.run(_pages(fetched).read(json.loads(row["request"])))
    except Exception as error:
        return row | {"request": "", "outcome": outcomes.encoded(as_outcome(error))}
    return row | {"request": json.dumps(asdict(given))}


@functools.cache
def _pages(fetched: str) -> Pages:
    """One in each process: the workers that open documents stay."""
    return Pages(Path(fetched))


@dataclass(frozen=True)
class AskSettings:
    """How items are asked.

    Args:
        question: of the run.
        concurrency: requests at a time of each process that asks; None: as many as answers come faster for.
        endpoints: whom each of them asks; none: a server of its own.
        device: of that server, as `--device`.
    """

    question: Question
    concurrency: int | None
    endpoints: Sequence[Endpoint]
    device: str

    async def check(self) -> None:
        """See `AnyServerAsk.check`."""
        async with asking(self.question, Servers(self.endpoints), _Given()) as ask:
            await ask.check()


class AskItems:
    """Asks the servers for items, many at a time; one in each process that asks.

    Args:
        settings: how.
    """

    def __init__(self, settings: AskSettings) -> None:
        self._settings = settings
        concurrency = settings.concurrency
        self._limit = ConcurrencyLimit.auto() if concurrency is None else ConcurrencyLimit(concurrency)
        self._room = _Room(self._limit)
        self._own = None if settings.endpoints else OwnServer(functools.partial(_serve, settings.device))
        self._ask: FileAsk | LineAsk | None = None
        self._endpoints: Sequence[Endpoint] = ()

    async def __call__(self, row: Row) -> Row:
        """A row without a request, and with its outcome."""
        outcome = row["outcome"] or outcomes.encoded(await self._outcome(row))
        return {"number": row["number"], "attempts": row["attempts"], "outcome": outcome}

    async def _outcome(self, row: Row) -> Outcome:
        try:
            return await self._asked(Item(str(row["number"]), json.loads(row["request"])))
        except Exception as error:
            return as_outcome(error)

    async def _asked(self, item: Item) -> Mapping[str, Any]:
        waited_s = 0.0
        while True:
            ask = await self._ready()
            try:
                async with self._room:
                    return await ask(item)
            except TryLater as later:
                wait_s = max(_SHORTEST_WAIT_S, later.wait_s)
                waited_s += wait_s
                if waited_s > _PATIENCE_S:
                    raise
                await asyncio.sleep(wait_s)

    async def _ready(self) -> FileAsk | LineAsk:
        """Once there is a server to ask."""
        endpoints = self._settings.endpoints if self._own is None else [await self._own.endpoint()]
        if self._ask is None or endpoints != self._endpoints:
            self._endpoints = endpoints
            self._ask = asking(self._settings.question, Servers(endpoints), _Given())
        return self._ask


class _Given:
    """Pages that `read_page` has read."""

    async def read(self, request: Mapping[str, Any]) -> Input:
        return Input(**request)


class _Room:
    """Within `async with`, as many at a time as a limit says."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self._limit = limit
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._in_flight < self._limit.value)
            self._in_flight += 1

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._limit.answered(self._in_flight)
        elif isinstance(error, TryLater) and error.is_overload:
            self._limit.overloaded()
        async with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()


def _serve(device: str, port: int) -> list[str]:
    return serve_command("--device", device, "--port", str(port))
