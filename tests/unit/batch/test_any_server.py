"""Servers that are full, not ready, gone or back: who is asked, and whose fault a failure is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from phi_vision.batch.asking import FileAsk, _Known
from phi_vision.batch.breaks import MAX_BREAKS
from phi_vision.batch.work import ItemError, TryLater
from phi_vision.client.exchange import Endpoint

from tests.support.answering_server import MODEL, AnsweringServer
from tests.support.asking import (
    NOWHERE,
    Clock,
    Folder,
    asked,
    refused,
)
from tests.support.serving import eventually


def test_a_full_server_is_asked_when_it_says(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(6)
    clock = Clock()
    answering.fail("429", retry_after=7)

    async def use(ask: FileAsk) -> None:
        later = await refused(ask, item)
        assert isinstance(later, TryLater) and later.is_overload and later.wait_s == 7
        assert str(later) == f"{answering.base_url} is full: as asked"
        clock.now_s += 6
        assert (await refused(ask, item)).wait_s == 1
        clock.now_s += 1
        assert (await ask(item))["text"] == text

    asked(use, answering, clock=clock)
    assert answering.asks[text] == 2


@pytest.mark.parametrize("status", ["502", "503", "504"])
def test_a_server_that_is_not_ready(answering: AnsweringServer, folder: Folder, status: str) -> None:
    item, _ = folder.picture(7)
    answering.fail(status)
    later = asked(lambda ask: refused(ask, item), answering)
    assert isinstance(later, TryLater) and not later.is_overload and later.wait_s == 1
    assert str(later) == f"{answering.base_url} is not ready: as asked"


@pytest.mark.parametrize("status", ["429", "503"])
def test_another_server_is_asked_at_once(
    answering: AnsweringServer, second: AnsweringServer, folder: Folder, status: str
) -> None:
    items = [folder.picture(seed) for seed in range(30, 34)]
    answering.fail(status, count=None)
    before = sum(answering.asks.values())

    async def use(ask: FileAsk) -> list[Any]:
        return [await ask(item) for item, _ in items]

    results = asked(use, answering, second)
    assert [result["text"] for result in results] == [text for _, text in items]
    assert {result["server"] for result in results} == {second.base_url}
    assert sum(answering.asks.values()) == before + 1  # then it was left alone


def test_a_server_that_is_not_there(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(8)
    later = asked(lambda ask: refused(ask, item), NOWHERE)
    assert isinstance(later, TryLater) and not later.is_overload
    assert str(later).startswith(f"{NOWHERE.base_url} does not answer (")
    assert asked(lambda ask: ask(item), NOWHERE, answering)["text"] == text


def test_a_server_that_ends_and_comes_back(tmp_path: Path, folder: Folder) -> None:
    items = [folder.picture(seed) for seed in range(40, 44)]
    clock = Clock()
    first = AnsweringServer(tmp_path)
    with first:
        first.wait_until_ready()
        port = first.port

        async def use(ask: FileAsk) -> None:
            first.fail("hang", count=None)
            waiting = [asyncio.create_task(refused(ask, item)) for item, _ in items]
            await asyncio.to_thread(eventually, lambda: first.state["in_flight"] == 4)
            first.process.kill()
            laters = await asyncio.gather(*waiting)
            assert all(isinstance(later, TryLater) for later in laters)
            assert {str(later).partition(" (")[0] for later in laters} == {
                "the connection broke while the answer was awaited"
            }
            first.process.wait()
            later = await refused(ask, items[0][0])
            assert isinstance(later, TryLater) and "does not answer" in str(later)
            with AnsweringServer(tmp_path, port=port) as again:
                await asyncio.to_thread(again.wait_until_ready)
                assert "does not answer" in str(await refused(ask, items[0][0]))  # not before its time
                clock.now_s += 1
                results = [await ask(item) for item, _ in items]
                assert [result["text"] for result in results] == [text for _, text in items]

        asked(use, Endpoint(f"http://127.0.0.1:{port}/v1"), clock=clock)


def test_one_item_that_breaks_its_connection_is_given_up(answering: AnsweringServer, folder: Folder) -> None:
    poison, poison_text = folder.picture(50)
    answering.fail("drop", count=None, text=poison_text)

    async def use(ask: FileAsk) -> Any:
        for _ in range(MAX_BREAKS - 1):
            assert isinstance(await refused(ask, poison), TryLater)
        return await refused(ask, poison)

    error = asked(use, answering)
    assert isinstance(error, ItemError) and error.is_final and error.cause == "no answer"
    assert answering.asks[poison_text] == MAX_BREAKS


def test_a_server_whose_connections_all_break_is_not_the_items_fault(folder: Folder) -> None:
    """As a tunnel whose other end is gone."""
    item, _ = folder.picture(52)
    clock = Clock()

    def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    async def use(ask: FileAsk) -> None:
        ask._known[ask._servers.all[0]] = _Known(MODEL)  # it answered until now
        for _ in range(4 * MAX_BREAKS):
            assert isinstance(await refused(ask, item), TryLater)
            clock.now_s += 60

    http = httpx.AsyncClient(transport=httpx.MockTransport(break_off))
    asked(use, Endpoint("http://tunnel/v1"), clock=clock, http=http)


def test_an_answer_that_does_not_come(answering: AnsweringServer, folder: Folder) -> None:
    item, _ = folder.picture(60)

    async def use(ask: FileAsk) -> Any:
        await ask.check()
        return await refused(ask, item)

    later = asked(use, answering, timeout_s=0.0)
    assert isinstance(later, TryLater) and str(later) == "no answer came within 0 s"


def test_an_ask_that_is_called_off(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(61)
    answering.fail("hang", text=text)

    async def use(ask: FileAsk) -> None:
        waiting = asyncio.create_task(ask(item))
        await asyncio.to_thread(eventually, lambda: answering.state["in_flight"] == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asked(use, answering)
