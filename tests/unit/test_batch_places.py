"""The places of lines of batches."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from phi_vision.serving.batch_places import BatchPlaces


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))  # a state that never comes


async def settle() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Lines:
    """Lines that hold their places until they are told to end."""

    def __init__(self, places: int) -> None:
        self.clients = 0
        self.places = BatchPlaces(places, lambda: self.clients)
        self.at_work: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, owner: str = "one", size: int = 1) -> None:
        async def line() -> None:
            async with self.places.take(owner, size):
                self.at_work.append(name)
                await asyncio.Event().wait()

        self._tasks[name] = asyncio.create_task(line())
        await settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self._tasks.pop(name).cancel()
        await settle()
        self.at_work = [name for name in self.at_work if name in self._tasks]


def test_no_more_lines_than_places() -> None:
    async def scenario() -> None:
        lines = Lines(2)
        for name in "abcd":
            await lines.begin(name)
        assert lines.at_work == ["a", "b"]
        await lines.end("a")
        assert lines.at_work == ["b", "c"]
        await lines.end("d", "b", "c")  # one that waited
        await lines.begin("e")
        await lines.begin("f")
        assert lines.at_work == ["e", "f"]

    run(scenario())


def test_requests_of_clients_come_first() -> None:
    async def scenario() -> None:
        lines = Lines(3)
        lines.clients = 2
        await lines.begin("a")
        await lines.begin("b")
        assert lines.at_work == ["a"]
        lines.clients = 5  # they are never kept from coming
        await lines.end("a")
        assert lines.at_work == []
        lines.clients = 2
        lines.places.hand_out()
        await settle()
        assert lines.at_work == ["b"]

    run(scenario())


def test_owners_take_turns() -> None:
    async def scenario() -> None:
        lines = Lines(2)
        for name in ("a1", "a2", "a3"):
            await lines.begin(name, "a")
        await lines.begin("b1", "b")
        await lines.begin("b2", "b")
        await lines.end("a1")
        assert lines.at_work == ["a2", "b1"]
        await lines.end("b1")
        assert lines.at_work == ["a2", "b2"]
        await lines.end("b2")
        assert lines.at_work == ["a2", "a3"]

    run(scenario())


def test_a_large_line_waits_for_all_its_places_and_is_not_passed() -> None:
    async def scenario() -> None:
        lines = Lines(3)
        await lines.begin("a")
        await lines.begin("large", size=3)
        await lines.begin("b")
        assert lines.at_work == ["a"]
        await lines.end("a")
        assert lines.at_work == ["large"]
        await lines.end("large")
        assert lines.at_work == ["b"]
        await lines.end("b")
        await lines.begin("larger than all", size=99)
        assert lines.at_work == ["larger than all"]

    run(scenario())


def test_a_place_that_is_given_and_given_up_at_once_is_free() -> None:
    async def scenario() -> None:
        lines = Lines(1)
        await lines.begin("a")
        await lines.begin("b")
        lines._tasks.pop("a").cancel()
        while lines.places._waiting:  # until "b" has the place, but has not gone on
            await asyncio.sleep(0)
        lines._tasks.pop("b").cancel()
        await settle()
        await lines.begin("c")
        assert lines.at_work[-1] == "c"

    run(scenario())
