"""Breaks of a connection: the server's fault, or the item's."""

from __future__ import annotations

import asyncio

from phi_vision.batch.breaks import MAX_BREAKS, Breaks
from phi_vision.batch.work import ItemError, TryLater


def test_an_item_that_breaks_each_time_is_given_up() -> None:
    breaks = Breaks()
    for number in range(1, MAX_BREAKS):
        error = breaks.broke("poison", "it broke")
        assert isinstance(error, TryLater) and not error.is_overload
        assert error.wait_s == 2 ** (number - 1) and str(error) == "it broke"
    error = breaks.broke("poison", "it broke")
    assert isinstance(error, ItemError) and error.is_final and error.cause == "no answer"
    assert str(error) == "it broke, 5 times in a row"
    assert isinstance(breaks.broke("poison", "it broke"), TryLater)  # asked once more, it starts anew


def test_an_item_that_gets_its_answer_is_in_doubt_no_more() -> None:
    breaks = Breaks()
    for _ in range(3):
        for _ in range(MAX_BREAKS - 1):
            assert isinstance(breaks.broke("a", "it broke"), TryLater)
        breaks.forget("a")


def test_items_in_doubt_are_asked_one_at_a_time() -> None:
    async def run() -> list[str]:
        breaks = Breaks()
        for key in ("poison", "neighbour"):
            for _ in range(2):
                breaks.broke(key, "it broke")
        seen = []
        leave = asyncio.Event()

        async def ask(key: str) -> None:
            async with breaks.turn(key) as in_doubt:
                assert in_doubt == (key in ("poison", "neighbour"))
                seen.append(key)
                await leave.wait()

        tasks = [asyncio.create_task(ask(key)) for key in ("poison", "neighbour", "other", "one more")]
        while len(seen) < 3:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        before = list(seen)
        leave.set()
        await asyncio.gather(*tasks)
        assert seen == [*before, "neighbour"]
        return before

    assert asyncio.run(run()) == ["poison", "other", "one more"]
