"""Ask for every item of a queue, some at a time, until each is done or has failed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.queue import Queue, QueueError
from phi_vision.batch.work import Ask, Counts, Item, ItemError, Record, TryLater
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError

MAX_ATTEMPTS = 3

_SHORTEST_WAIT_S = 0.1

Outcome = Mapping[str, Any] | PhiVisionError  # a result, or why there is none


@dataclass(frozen=True)
class Progress:
    """How a run stands after a change.

    Args:
        counts: items in each state.
        ended: those that were done or failed with this change, with their results and errors.
        concurrency: requests under way at a time, at most, for now; None where others decide it.
        pause: why all items under way wait to be asked again.
    """

    counts: Counts
    ended: Sequence[Record]
    concurrency: int | None
    pause: TryLater | None


async def run(
    queue: Queue,
    ask: Ask,
    limit: ConcurrencyLimit,
    *,
    max_attempts: int = MAX_ATTEMPTS,
    max_errors: int | None = None,
    on_change: Callable[[Progress], None] = lambda progress: None,
    stop: asyncio.Event | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Counts:
    """Ask for the items that wait. Each result is committed before the next items are asked.

    `TryLater` has the item wait as told, any number of times, and it keeps its place among those under way: a
    server that is gone pauses the run. An `ItemError` fails the item, at once if it is final and else with
    its last attempt. An exception that is none of ours fails its item too. However the run ends, the items
    under way are put back.

    Args:
        queue: of items; nothing else may take any of them.
        ask: asks for one item; is cancelled when the run ends early.
        limit: how many at a time.
        max_attempts: of each item.
        max_errors: items that may fail in this run: with the last of them it ends early. None: all.
        on_change: called at first and after each change.
        stop: ends the run early once it is set.
        sleep: waits, in seconds.

    Returns:
        Items in each state. Some wait if the run ended early.

    Raises:
        QueueError: the queue cannot be written; what it held it still holds.
        PhiVisionError: from `ask`, other than `TryLater` and `ItemError`.
    """
    with ThreadPoolExecutor(1, "queue") as thread:  # flushes to disk do not hold up the event loop
        running = _Run(queue, ask, limit, max_attempts, max_errors, on_change, stop or asyncio.Event(), sleep)
        return await running.until_end(thread)


@dataclass
class _Run:
    """The state of one call of `run`; nothing stays here of an item that has ended."""

    queue: Queue
    ask: Ask
    limit: ConcurrencyLimit
    max_attempts: int
    max_errors: int | None
    on_change: Callable[[Progress], None]
    stop: asyncio.Event
    sleep: Callable[[float], Awaitable[None]]

    def __post_init__(self) -> None:
        self._asking: dict[asyncio.Task[Any], Record] = {}
        self._num_waiting = 0  # of them, after a `TryLater`
        self._told: TryLater | None = None  # the latest
        self._changed: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()  # tasks that have ended, or wait
        self._taken: dict[int, Record] = {}  # from the queue, by number; belongs to its thread
        self._failed = 0
        self._fault: PhiVisionError | None = None  # that ends the run
        self._is_ending = False

    async def until_end(self, thread: ThreadPoolExecutor) -> Counts:
        loop = asyncio.get_running_loop()
        stopped = self._start(self.stop.wait())
        changed: list[asyncio.Task[Any]] = []
        try:
            while True:
                outcomes = self._outcomes(changed)
                over = self.stop.is_set() or self._fault or self._failed >= (self.max_errors or math.inf)
                free = 0 if over else self.limit.value - len(self._asking)
                taken, ended = await loop.run_in_executor(thread, self._write, outcomes, free)
                for record in taken:
                    self._asking[self._start(self._ask(record.item))] = record
                self._tell(ended)
                if over or not (self._asking or self.queue.counts()["waiting"]):
                    break
                changed = [await self._changed.get()]
                while not self._changed.empty():
                    changed.append(self._changed.get_nowait())
        finally:
            self._is_ending = True
            for task in (stopped, *self._asking):
                task.cancel()
            await asyncio.gather(stopped, *self._asking, return_exceptions=True)
            # Not their errors: the end of the run may be what caused them.
            results = [
                (record, task.result())
                for task, record in self._asking.items()
                if not (task.cancelled() or task.exception())
            ]
            with contextlib.suppress(QueueError):  # what ended the run
                self._tell(await loop.run_in_executor(thread, self._put_back, results))
        if self._fault:
            raise self._fault
        return self.queue.counts()

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(self._changed.put_nowait)
        return task

    async def _ask(self, item: Item) -> Mapping[str, Any]:
        try:
            return await self.ask(item)
        except TryLater as later:
            if not self._is_ending:
                await self._wait(later)
            raise

    async def _wait(self, later: TryLater) -> None:
        """In the task of an item."""
        if later.is_overload:
            self.limit.overloaded()
        self._told = later
        self._num_waiting += 1
        self._changed.put_nowait(cast(asyncio.Task[Any], asyncio.current_task()))
        try:
            await self.sleep(max(_SHORTEST_WAIT_S, later.wait_s))
        finally:
            self._num_waiting -= 1

    def _outcomes(self, changed: Sequence[asyncio.Task[Any]]) -> list[tuple[Record, Outcome]]:
        """What came of the items asked by these tasks, and what follows for the run."""
        in_flight = len(self._asking) - self._num_waiting
        outcomes = []
        for task in changed:
            if task.done() and (record := self._asking.pop(task, None)):
                outcomes.append((record, _outcome(task)))
        for record, outcome in outcomes:
            match outcome:
                case TryLater():
                    in_flight -= 1  # it has waited
                case ItemError():
                    self._failed += not is_again(record, outcome, self.max_attempts)
                case PhiVisionError():
                    self._fault = self._fault or outcome
        for _, outcome in outcomes:
            if not isinstance(outcome, PhiVisionError):
                self.limit.answered(in_flight)
        return outcomes

    def _write(
        self, outcomes: Sequence[tuple[Record, Outcome]], free: int
    ) -> tuple[list[Record], list[Record]]:
        """In the queue's thread: write outcomes and take at most `free` items, in one transaction.

        Returns:
            The records taken, and those that are done or failed now.
        """
        with self.queue.transaction():
            settled = [settle(self.queue, record, outcome, self.max_attempts) for record, outcome in outcomes]
            taken = list(itertools.islice(iter(self.queue.take, None), max(0, free)))
        for record, _ in outcomes:
            del self._taken[record.number]
        self._taken.update({record.number: record for record in taken})
        return taken, [record for record in settled if record]

    def _put_back(self, results: Sequence[tuple[Record, Outcome]]) -> list[Record]:
        """In the queue's thread, at the end: write results, and put back what was interrupted."""
        _, ended = self._write(results, 0)
        with self.queue.transaction():
            for record in self._taken.values():
                self.queue.give_back(record)
        return ended

    def _tell(self, ended: Sequence[Record]) -> None:
        pause = self._told if self._num_waiting and self._num_waiting == len(self._asking) else None
        self.on_change(Progress(self.queue.counts(), ended, self.limit.value, pause))


def settle(queue: Queue, record: Record, outcome: Outcome, max_attempts: int = MAX_ATTEMPTS) -> Record | None:
    """Write what came of an item that was taken; the record, if it is done or has failed now."""
    match outcome:
        case ItemError():
            again = is_again(record, outcome, max_attempts)
            ended = queue.fail(record, outcome, again=again)
            return None if again else ended
        case PhiVisionError():
            queue.give_back(record)
            return None
        case _:
            return queue.finish(record, outcome)


def is_again(record: Record, error: ItemError, max_attempts: int = MAX_ATTEMPTS) -> bool:
    """Whether an item is asked again after this error."""
    return not error.is_final and record.attempts + 1 < max_attempts


def as_outcome(error: BaseException) -> PhiVisionError:
    """An exception as what came of an item: a fault of ours with it must not end the others."""
    if isinstance(error, PhiVisionError):
        return error
    return ItemError(one_line(f"{type(error).__name__}: {error}"), cause="internal")


def _outcome(task: asyncio.Task[Any]) -> Outcome:
    if task.cancelled():
        return ItemError("asking for it was cancelled", cause="internal", is_final=False)
    error = task.exception()
    return task.result() if error is None else as_outcome(error)
