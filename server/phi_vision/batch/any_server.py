"""Asks an item of any of several servers: which one, whose fault a failure is, and when to ask again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx

from phi_vision.batch.breaks import Breaks
from phi_vision.batch.sending import ANSWER_TIMEOUT_S, Broke, Reply, http_client, send
from phi_vision.batch.servers import Server, Servers, Unavailable
from phi_vision.batch.work import Item, ItemError
from phi_vision.client.exchange import Unreachable

LOOK_TIMEOUT_S = 30.0  # for what a server answers without its engine

Question = TypeVar("Question")


class AnyServerAsk(ABC, Generic[Question]):
    """An `Ask` (see `work`) over several servers: one that takes nothing now leaves the item to the next.

    Args:
        servers: whom to ask.
        http: what sends the requests, by default a client of its own. Leaving `async with` closes it.
        timeout_s: for one answer, the time in the server's queue included.
    """

    def __init__(
        self, servers: Servers, http: httpx.AsyncClient | None = None, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._servers = servers
        self._http = http or http_client([server.endpoint for server in servers.all])
        self._timeout_s = timeout_s
        self._breaks = Breaks()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """Fail before the first item, where all would fail.

        Raises:
            Unreachable: no server takes requests.
            UsageError: one does not take the key, or does not do the task.
        """
        problems = await asyncio.gather(*(self._problem(server) for server in self._servers.all))
        if all(problems):
            raise Unreachable("; ".join(filter(None, problems)))

    async def __call__(self, item: Item) -> dict[str, Any]:
        """The result.

        Raises:
            TryLater: no server takes it now.
            ItemError: it cannot be answered.
            UsageError: what no item can be asked with, such as a key that is not taken.
        """
        async with self._breaks.turn(item.key) as in_doubt:
            try:
                result = await self._ask_any(item, in_doubt)
            except Broke as broke:
                raise self._breaks.broke(item.key, str(broke)) from broke
            except ItemError:
                self._breaks.forget(item.key)
                raise
        self._breaks.forget(item.key)
        return result

    async def _ask_any(self, item: Item, in_doubt: bool) -> dict[str, Any]:
        self._servers.check()  # or the file would be read in vain
        question = await self._question(item)
        asked: list[Server] = []
        while True:
            with self._servers.take(asked) as server:
                asked.append(server)
                try:
                    if in_doubt:
                        await self._see_that_it_answers(server)
                    return await self._ask(server, question)
                except Unavailable as error:
                    self._servers.leave(server, error)
                    self._forget(server)

    async def _problem(self, server: Server) -> str | None:
        try:
            await self._meet(server)
        except Unavailable as error:
            return f"{server.name} {error.reason}"
        except ItemError as error:
            return f"{server.name}: {error}"
        return None

    async def _see_that_it_answers(self, server: Server) -> None:
        with contextlib.suppress(ItemError):
            await self._get(server, "/models")

    async def _get(self, server: Server, path: str) -> dict[str, Any]:
        try:
            reply = await send(self._http, server.endpoint, path, timeout_s=LOOK_TIMEOUT_S)
        except Broke as broke:
            raise Unavailable(f"is in trouble: {broke}") from broke
        self._servers.answered(server)
        return reply.body

    async def _post(self, server: Server, path: str, body: Mapping[str, Any]) -> Reply:
        content = await asyncio.to_thread(_encoded, body)
        try:
            reply = await send(self._http, server.endpoint, path, content, self._timeout_s)
        except ItemError:
            self._servers.answered(server)
            raise
        self._servers.answered(server)
        return reply

    def _forget(self, server: Server) -> None:
        """Let go of what is known of a server, which may come back as another."""

    @abstractmethod
    async def _meet(self, server: Server) -> object:
        """Ask the server for what must be known of it."""

    @abstractmethod
    async def _question(self, item: Item) -> Question:
        """What is asked of any server."""

    @abstractmethod
    async def _ask(self, server: Server, question: Question) -> dict[str, Any]:
        """The result, from this server."""


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()
