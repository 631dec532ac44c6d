"""The pipelines of a run: count the pages of documents, read pages, ask the servers.

The cluster holds no state of the run. Items are taken from its queue, many at a time, and what came of them
is written there as it arrives; so a run may go on with or without a cluster.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_vision.batch.concurrency import HIGHEST
from phi_vision.batch.inputs import Files, is_document
from phi_vision.batch.on_ray import outcomes
from phi_vision.batch.on_ray.stages import AskItems, AskSettings, Row, count_pages, read_page
from phi_vision.batch.queue import Queue
from phi_vision.batch.runner import Progress, settle
from phi_vision.batch.work import Item, ItemError, Record, TryLater
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError

ROWS_OF_A_TASK = 16  # what a task reads or asks; its results arrive together
_SOURCES_AT_ONCE = 100_000  # of a pipeline
_ITEMS_AT_ONCE = 500_000
_TASKS_OF_A_PROCESS = HIGHEST // ROWS_OF_A_TASK  # with all of their rows, it asks as much as it may

OnChange = Callable[[Progress], None]


class Job:
    """The work of the cluster that this process is connected to.

    Args:
        fetched: see `pages.Pages`; all nodes must see it if documents are named by their addresses.
    """

    def __init__(self, fetched: Path) -> None:
        self._fetched = {"fetched": str(fetched.absolute())}

    def items(self, files: Files) -> Iterator[Item]:
        """As `Files.items`, with the pages of documents counted on the cluster."""
        for sources in _chunks(files.sources(), _SOURCES_AT_ONCE):
            documents = [{"source": json.dumps(source)} for source in sources if is_document(source)]
            counts = dict[str, int]()
            if documents:
                counted = _dataset(documents).map(count_pages, fn_kwargs=self._fetched)
                for rows in _results(counted):
                    counts |= {json.loads(row["source"]): row["num_pages"] for row in rows}
            for source in sources:
                yield from files.items_of(source, counts.get(source))

    def ask(
        self,
        queue: Queue,
        settings: AskSettings,
        num_askers: int,
        *,
        gpus_each: int,
        max_errors: int | None,
        on_change: OnChange,
    ) -> None:
        """Ask for the items that wait, as `runner.run` does.

        Args:
            queue: of items; nothing else may take any of them.
            settings: how they are asked.
            num_askers: processes that ask.
            gpus_each: GPUs that each of these is given.
            max_errors: items that may fail: with the last of them it ends early. None: all.
            on_change: called at first and after each change.

        Raises:
            QueueError: the queue cannot be written; what it held it still holds.
            PhiVisionError: the run cannot go on.
        """
        on_change(Progress(queue.counts(), (), None, None))
        failed = 0
        try:
            while taken := take_rows(queue):
                under_way = {row["number"] for row in taken}
                for rows in _results(self._asked(taken, settings, num_askers, gpus_each)):
                    progress = settle_rows(queue, [row for row in rows if row["number"] in under_way])
                    under_way -= {row["number"] for row in rows}
                    on_change(progress)
                    failed += sum(record.state == "failed" for record in progress.ended)
                    if max_errors is not None and failed >= max_errors:
                        return
                queue.give_back_all()  # of whom nothing came
        finally:
            queue.give_back_all()

    def _asked(self, rows: Sequence[Row], settings: AskSettings, num_askers: int, gpus_each: int) -> Any:
        from ray.data import ActorPoolStrategy

        dataset = _dataset(rows)
        if settings.question.task is not None:
            dataset = dataset.map(read_page, fn_kwargs=self._fetched)
        pool = ActorPoolStrategy(
            size=num_askers,
            max_tasks_in_flight_per_actor=_TASKS_OF_A_PROCESS,
            max_concurrent_calls_per_actor=_TASKS_OF_A_PROCESS,
        )
        # No processor: it waits for the servers, and would keep a small cluster from reading.
        return dataset.map(
            AskItems, fn_constructor_args=[settings], compute=pool, num_cpus=0, num_gpus=gpus_each
        )


def take_rows(queue: Queue) -> list[Row]:
    """The next items that wait, as rows of a pipeline; they count as asked."""
    with queue.transaction():
        records = itertools.islice(iter(queue.take, None), _ITEMS_AT_ONCE)
        return [
            {
                "number": record.number,
                "attempts": record.attempts,
                "request": json.dumps(dict(record.item.request)),
                "outcome": "",
            }
            for record in records
        ]


def settle_rows(queue: Queue, rows: Iterable[Row]) -> Progress:
    """Write what came of some items, in one transaction."""
    ended: list[Record] = []
    pause: TryLater | None = None
    fault: PhiVisionError | None = None
    with queue.transaction():
        for row in rows:
            record = Record(row["number"], Item("", {}), "asked", row["attempts"])
            outcome = outcomes.decoded(row["outcome"])
            if settled := settle(queue, record, outcome):
                ended.append(settled)
            elif isinstance(outcome, TryLater):
                pause = outcome
            elif isinstance(outcome, PhiVisionError) and not isinstance(outcome, ItemError):
                fault = outcome
    if fault is not None:
        raise fault
    return Progress(queue.counts(), ended, None, pause if not ended else None)


def _dataset(rows: Iterable[Row]) -> Any:
    """A row of a task's blocks after the other."""
    import pyarrow
    import ray

    return ray.data.from_arrow([pyarrow.Table.from_pylist(chunk) for chunk in _chunks(rows, ROWS_OF_A_TASK)])


def _results(dataset: Any) -> Iterator[list[Row]]:
    """What comes out of a pipeline, in pieces and in any order."""
    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield table.to_pylist()
    except Exception as error:  # of many classes; it holds the traceback of the process that failed
        reason = str(error).strip().rpartition("\n")[2] or type(error).__name__
        raise PhiVisionError(f"the Ray cluster failed: {one_line(reason)}") from error


def _chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(values)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
