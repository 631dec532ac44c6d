"""Runs: concurrency, retries, pauses, ends; no test waits for the clock."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.queue import Queue, QueueError
from phi_vision.batch.runner import Progress, run
from phi_vision.batch.work import Counts, Item, ItemError, Record, TryLater
from phi_vision.errors import UsageError


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path / "run.sqlite") as queue:
        yield queue


def fill(queue: Queue, count: int) -> None:
    queue.add(Item(f"page {number}", {"number": number}) for number in range(count))


class Asked:
    """Asks as `reply` says, and keeps what it was asked and how many were under way."""

    def __init__(self, reply: Callable[[Item, int], Mapping[str, Any] | Exception | None]) -> None:
        self.reply = reply
        self.times: Counter[str] = Counter()
        self.order: list[str] = []
        self.under_way = self.most_under_way = 0

    async def __call__(self, item: Item) -> Mapping[str, Any]:
        """Calls `reply` with the item and how often it was asked; its None is the usual answer."""
        self.times[item.key] += 1
        self.order.append(item.key)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            reply = self.reply(item, self.times[item.key])
        finally:
            self.under_way -= 1
        if isinstance(reply, Exception):
            raise reply
        return {"text": item.key} if reply is None else reply


class Sleeps:
    """Returns at once."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    async def __call__(self, wait_s: float) -> None:
        self.waits_s.append(wait_s)
        await asyncio.sleep(0)


def go(
    queue: Queue, ask: Callable[[Item], Awaitable[Mapping[str, Any]]], concurrency: int = 4, **options: Any
) -> Counts:
    return asyncio.run(run(queue, ask, ConcurrencyLimit(concurrency), **options))


def counts(waiting: int = 0, asked: int = 0, done: int = 0, failed: int = 0) -> Counts:
    return {"waiting": waiting, "asked": asked, "done": done, "failed": failed}


def test_every_item_is_asked_once_with_all_of_the_limit(queue: Queue) -> None:
    fill(queue, 100)
    ask = Asked(lambda item, times: None)
    assert go(queue, ask, 6) == counts(done=100)
    assert set(ask.times.values()) == {1} and len(ask.times) == 100
    assert ask.most_under_way == 6
    assert [r.result for r in queue.records()] == [{"text": f"page {n}"} for n in range(100)]


def test_an_empty_queue_ends_at_once(queue: Queue) -> None:
    assert go(queue, Asked(lambda item, times: None)) == counts()


def test_a_result_is_committed_before_the_next_item_is_asked(queue: Queue) -> None:
    fill(queue, 20)
    done: list[int] = []

    def reply(item: Item, times: int) -> None:
        done.append(queue.counts()["done"])

    go(queue, Asked(reply), 1)
    assert done == list(range(20))


def test_an_item_that_no_server_takes_waits_without_using_up_attempts(queue: Queue) -> None:
    """For as long as it takes: far more often than an item may be attempted."""
    fill(queue, 5)
    gone = iter(range(200))
    sleep = Sleeps()

    def reply(item: Item, times: int) -> Exception | None:
        return TryLater("connection refused", 7) if next(gone, None) is not None else None

    assert go(queue, Asked(reply), 2, sleep=sleep) == counts(done=5)
    assert [r.attempts for r in queue.records()] == [1] * 5
    assert sleep.waits_s == [7] * 200


def test_an_item_that_waits_is_asked_by_nobody_else(queue: Queue) -> None:
    """The last item is asked once after each wait, however many could be under way."""
    fill(queue, 1)
    sleep = Sleeps()
    ask = Asked(lambda item, times: TryLater("busy", 3, is_overload=True) if times <= 10 else None)
    assert go(queue, ask, 64, sleep=sleep) == counts(done=1)
    assert ask.times == {"page 0": 11} and sleep.waits_s == [3] * 10


def test_a_wait_of_nothing_is_still_one(queue: Queue) -> None:
    fill(queue, 1)
    sleep = Sleeps()
    go(queue, Asked(lambda item, times: TryLater("busy", 0) if times == 1 else None), sleep=sleep)
    assert sleep.waits_s == [0.1]


def test_other_items_are_asked_while_one_waits(queue: Queue) -> None:
    fill(queue, 50)
    changes: list[Progress] = []

    async def sleep(wait_s: float) -> None:
        while queue.counts()["done"] < 49:
            await asyncio.sleep(0)

    ask = Asked(lambda item, times: TryLater("busy", 60) if item.key == "page 0" and times == 1 else None)
    assert go(queue, ask, 2, sleep=sleep, on_change=changes.append) == counts(done=50)
    assert all(change.pause is None for change in changes if change.counts["done"] < 48)


def test_items_that_wait_keep_their_places_among_those_under_way(queue: Queue) -> None:
    """So a server that is gone is not asked for the whole queue."""
    fill(queue, 100)
    stop = asyncio.Event()
    pauses: list[str] = []

    async def sleep(wait_s: float) -> None:
        await asyncio.Event().wait()

    def on_change(progress: Progress) -> None:
        if progress.pause:
            pauses.append(str(progress.pause))
            stop.set()

    ask = Asked(lambda item, times: TryLater("gone", 60))
    assert go(queue, ask, 4, sleep=sleep, stop=stop, on_change=on_change) == counts(waiting=100)
    assert ask.order == ["page 0", "page 1", "page 2", "page 3"] and pauses[0] == "gone"


def test_only_an_overload_lowers_the_limit(queue: Queue) -> None:
    class Limit(ConcurrencyLimit):
        overloads = answers = 0

        def overloaded(self) -> None:
            self.overloads += 1

        def answered(self, in_flight: int) -> None:
            assert 1 <= in_flight <= 4
            self.answers += 1

    replies: dict[str, Exception] = {
        "page 1": TryLater("full", 1, is_overload=True),
        "page 2": TryLater("gone", 1),
        "page 3": ItemError("no", cause="refused"),
    }
    fill(queue, 10)
    limit = Limit(4)
    ask = Asked(lambda item, times: replies.get(item.key) if times == 1 else None)
    asyncio.run(run(queue, ask, limit, sleep=Sleeps()))
    assert (limit.overloads, limit.answers) == (1, 9)


def test_attempts(queue: Queue) -> None:
    """A final error fails the item at once, another with its last attempt."""
    fill(queue, 4)

    def reply(item: Item, times: int) -> Exception | None:
        return {
            "page 0": ItemError("unreadable", cause="unreadable"),
            "page 1": ItemError("broken", cause="server", status=500, is_final=False),
            "page 2": ItemError("broken", cause="server", status=500, is_final=False) if times < 3 else None,
        }.get(item.key)

    ask = Asked(reply)
    assert go(queue, ask, max_attempts=3) == counts(done=2, failed=2)
    assert ask.times == {"page 0": 1, "page 1": 3, "page 2": 3, "page 3": 1}
    assert [(r.state, r.attempts, r.error and r.error["cause"]) for r in queue.records()] == [
        ("failed", 1, "unreadable"),
        ("failed", 3, "server"),
        ("done", 3, None),
        ("done", 1, None),
    ]


def test_a_fault_of_ours_fails_one_item(queue: Queue) -> None:
    fill(queue, 3)

    async def ask(item: Item) -> Mapping[str, Any]:
        if item.key == "page 1":
            raise KeyError("choices\n")
        if item.key == "page 2":
            raise asyncio.CancelledError  # by itself: nobody has ended the run
        return {}

    assert go(queue, ask) == counts(done=1, failed=2)
    errors = [r.error["message"] for r in queue.records("failed") if r.error]
    assert errors == ["KeyError: 'choices\\n'", "asking for it was cancelled"]


def test_an_error_of_another_kind_ends_the_run_after_what_came_with_it(queue: Queue) -> None:
    fill(queue, 10)
    ask = Asked(lambda item, times: UsageError("the key is wrong") if item.key == "page 1" else None)
    with pytest.raises(UsageError, match="the key is wrong"):
        go(queue, ask, 3)
    assert queue.counts() == counts(waiting=8, done=2)


def test_the_last_error_that_is_allowed_ends_the_run(queue: Queue) -> None:
    fill(queue, 100)
    ask = Asked(lambda item, times: ItemError("no", cause="refused") if item.key in failing else None)
    failing = {f"page {n}" for n in range(0, 100, 10)}
    assert go(queue, ask, 1, max_errors=3) == counts(waiting=79, done=18, failed=3)
    assert len(ask.order) == 21
    assert go(queue, ask, 1, max_errors=3) == counts(waiting=49, done=45, failed=6)  # three more
    assert go(queue, ask, 1, max_errors=5) == counts(done=90, failed=10)
    assert set(ask.times.values()) == {1}


def test_attempts_that_are_not_the_last_count_no_error(queue: Queue) -> None:
    fill(queue, 5)
    broken = ItemError("broken", cause="server", is_final=False)
    ask = Asked(lambda item, times: broken if times == 1 else None)
    assert go(queue, ask, max_errors=1) == counts(done=5)


def test_a_stop_puts_back_what_is_under_way(queue: Queue) -> None:
    fill(queue, 10)
    stop, hanging, interrupted = asyncio.Event(), [], []

    async def ask(item: Item) -> Mapping[str, Any]:
        if item.request["number"] < 4:
            return {}
        hanging.append(item.key)
        if len(hanging) == 3:
            stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.append(item.key)
        raise AssertionError

    assert go(queue, ask, 3, stop=stop) == counts(waiting=6, done=4)
    assert interrupted == hanging == ["page 4", "page 5", "page 6"]
    assert [r.attempts for r in queue.records("waiting")] == [0] * 6
    ask_again = Asked(lambda item, times: None)
    assert go(queue, ask_again, 1) == counts(done=10)
    assert ask_again.order == [f"page {n}" for n in range(4, 10)]


def test_a_stop_while_items_wait(queue: Queue) -> None:
    fill(queue, 2)
    stop = asyncio.Event()

    async def sleep(wait_s: float) -> None:
        stop.set()
        await asyncio.Event().wait()

    ask = Asked(lambda item, times: TryLater("gone", 60))
    assert go(queue, ask, stop=stop, sleep=sleep) == counts(waiting=2)


def test_a_stop_before_the_start(queue: Queue) -> None:
    fill(queue, 2)
    stop = asyncio.Event()
    stop.set()
    ask = Asked(lambda item, times: None)
    assert go(queue, ask, stop=stop) == counts(waiting=2) and not ask.order


def test_an_answer_that_comes_with_the_stop_is_kept(queue: Queue) -> None:
    """Also one that comes while the run ends. An error that comes then says nothing of the item."""
    fill(queue, 4)
    stop = asyncio.Event()

    async def ask(item: Item) -> Mapping[str, Any]:
        if item.key == "page 0":
            stop.set()
            return {"text": "with"}
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if item.key == "page 1":
                return {"text": "after"}
            raise (ItemError("no", cause="server") if item.key == "page 2" else TryLater("no", 60)) from None
        raise AssertionError

    ended: list[Record] = []
    go(queue, ask, 4, stop=stop, on_change=lambda progress: ended.extend(progress.ended))
    assert queue.counts() == counts(waiting=2, done=2)
    assert [r.result for r in queue.records("done")] == [{"text": "with"}, {"text": "after"}]
    assert [r.item.key for r in ended] == ["page 0", "page 1"]


def test_a_run_that_is_cancelled_puts_back_what_is_under_way(queue: Queue) -> None:
    fill(queue, 5)

    async def cancelled() -> None:
        asking = asyncio.Event()

        async def ask(item: Item) -> Mapping[str, Any]:
            asking.set()
            await asyncio.Event().wait()
            raise AssertionError

        running = asyncio.create_task(run(queue, ask, ConcurrencyLimit(2)))
        await asking.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert queue.counts() == counts(waiting=5)


def test_a_full_disk_ends_the_run_and_loses_nothing(queue: Queue, tmp_path: Path) -> None:
    fill(queue, 200)
    usual = {n: {"text": hashlib.sha256(b"%d" % n).hexdigest() * 30} for n in range(200)}
    ask = Asked(lambda item, times: usual[item.request["number"]])
    pages = queue._database.execute("PRAGMA page_count").fetchone()[0]
    queue._database.execute(f"PRAGMA max_page_count = {pages + 30}")
    with pytest.raises(QueueError, match="disk is full"):
        go(queue, ask)
    done = {record.number: record.result for record in queue.records("done")}
    assert 0 < len(done) < 200 and all(usual[number] == result for number, result in done.items())
    queue.close()
    with Queue(tmp_path / "run.sqlite") as again:
        assert again.counts() == counts(waiting=200 - len(done), done=len(done))
        assert go(again, ask) == counts(done=200)
        assert {record.number: record.result for record in again.records()} == usual
    assert sum(times > 1 for times in ask.times.values()) <= 4  # what was under way


def test_progress_adds_up(queue: Queue) -> None:
    fill(queue, 50)
    changes: list[Progress] = []
    ask = Asked(lambda item, times: ItemError("no", cause="refused") if item.key == "page 7" else None)
    go(queue, ask, on_change=changes.append)
    ended = [record for change in changes for record in change.ended]
    assert sorted(record.number for record in ended) == list(range(50))
    assert Counter(record.state for record in ended) == {"done": 49, "failed": 1}
    assert next(r for r in ended if r.number == 3).result == {"text": "page 3"}
    assert changes[0].counts == counts(waiting=46, asked=4)
    assert changes[-1].counts == counts(done=49, failed=1)
    assert all(sum(change.counts.values()) == 50 and change.concurrency == 4 for change in changes)


def test_nothing_of_an_item_stays_once_it_has_ended(queue: Queue) -> None:
    """Results of 6 MB together pass through; what is held neither grows nor holds more than is under way."""
    fill(queue, 1200)
    held_bytes: list[int] = []
    records: list[int] = []

    def num_records() -> int:
        return sum(type(thing) is Record for thing in gc.get_objects())

    def on_change(progress: Progress) -> None:
        if progress.counts["done"] >= 200 * (len(held_bytes) + 1):
            gc.collect()
            held_bytes.append(tracemalloc.get_traced_memory()[0])
            records.append(num_records() - others)

    async def ask(item: Item) -> Mapping[str, Any]:
        await asyncio.sleep(0)
        return {"text": "x" * 5000}

    others = num_records()
    tracemalloc.start()
    try:
        assert go(queue, ask, 50, on_change=on_change) == counts(done=1200)
    finally:
        tracemalloc.stop()
    assert len(held_bytes) == 6
    assert max(held_bytes[1:]) < held_bytes[0] + 200_000
    assert max(records) <= 3 * 50
