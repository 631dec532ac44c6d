"""Items asked of servers that run, or of one that answers as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from phi_vision.batch.any_server import AnyServerAsk
from phi_vision.batch.asking import FileAsk
from phi_vision.batch.pages import Pages
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Item, ItemError, TryLater
from phi_vision.client.exchange import Endpoint
from phi_vision.client.text import visible
from phi_vision.errors import UsageError

from tests.support.answering_server import AnsweringServer, text_of
from tests.support.pictures import encoded, reference_picture

NOWHERE = Endpoint("http://127.0.0.1:1/v1")  # nobody listens on this port


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class Folder:
    """Pictures, each with its own answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def picture(self, seed: int) -> tuple[Item, str]:
        """An item, and the answer that it will get."""
        path = self.path / f"{seed}.png"
        path.write_bytes(encoded(reference_picture(40, 30, seed)))
        return Item(path.name, {"source": str(path)}), text_of(path.read_bytes())


def endpoints(*servers: AnsweringServer | Endpoint) -> list[Endpoint]:
    return [each if isinstance(each, Endpoint) else Endpoint(each.base_url) for each in servers]


def asked(
    use: Callable[[FileAsk], Awaitable[Any]],
    *servers: AnsweringServer | Endpoint,
    clock: Clock | None = None,
    task: str = "ocr",
    **options: Any,
) -> Any:
    """What `use` returns for an ask of these servers."""

    async def run() -> Any:
        known = Servers(endpoints(*servers), clock or Clock())
        with closing(Pages(Path("fetched"))) as pages:
            async with FileAsk(known, pages, task, **options) as ask:
                result = await use(ask)
            assert [server.in_flight for server in ask._servers.all] == [0] * len(servers)
            return result

    return asyncio.run(run())


async def refused(ask: AnyServerAsk[Any], item: Item) -> Any:
    """The error, whose text no terminal would act on."""
    with pytest.raises((TryLater, ItemError, UsageError)) as raised:
        await ask(item)
    message = str(raised.value)
    assert message and "\n" not in message and visible(message) == message
    return raised.value


class Body(httpx.AsyncByteStream):
    """A body that is sent in pieces."""

    def __init__(self, *pieces: bytes, times: int = 1) -> None:
        self._pieces, self._times = pieces, times

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._times):
            for piece in self._pieces:
                yield piece


def reply(status: int, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, headers=headers, stream=Body(content))


class Scripted:
    """A server in this process: answers the routes as told, and keeps what it was asked."""

    def __init__(self, **routes: Callable[[], httpx.Response]) -> None:
        self.routes = {
            "/v1/tasks": lambda: reply(200, {"data": [{"id": "ocr", "models": ["m:ocr"]}]}),
            **{path.replace("_", "/"): answer for path, answer in routes.items()},
        }
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[httpx.Headers] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.url.path, body))
        answer = self.routes.get(request.url.path)
        return answer() if answer is not None else reply(404, {"detail": "Not Found"})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))


OURS = Endpoint("http://scripted/v1", "secret", named=True)


def ask_scripted(
    scripted: Scripted, item: Item, endpoint: Endpoint = OURS, *, fails: bool = False, **options: Any
) -> Any:
    use = (lambda ask: refused(ask, item)) if fails else (lambda ask: ask(item))
    return asked(use, endpoint, http=scripted.client(), **options)


def chat_answer(text: str = "a word") -> httpx.Response:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return reply(200, {"choices": [choice], "model": "m"})
