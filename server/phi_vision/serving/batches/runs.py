"""Runs the batches of this server, from their input file to their output files, and goes on after a restart.

The process that opens the queue of a batch runs it. Other API processes, and other servers with the same
folder, find it locked, and try again: they go on with the batch soon after that process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp

from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.queue import Queue, QueueInUse
from phi_vision.batch.runner import Progress
from phi_vision.batch.runner import run as run_queue
from phi_vision.errors import PhiVisionError, RequestError
from phi_vision.limits import Limits
from phi_vision.serving import metrics
from phi_vision.serving.batches.in_process_ask import InProcessAsk
from phi_vision.serving.batches.lines import InputLines
from phi_vision.serving.batches.results import keep_results
from phi_vision.serving.batches.store import Batch, BatchStore, Status
from phi_vision.serving.files import FileStore
from phi_vision.serving.lifecycle import Lifecycle

_POLL_S = 1.0  # whether a batch was cancelled or has expired
_TAKE_UP_INTERVAL_S = 5.0
_SWEEP_INTERVAL_S = 300.0
_FAULT_WAIT_S = 300.0  # until a batch that could not go on is tried again
_RETRY_S = 60.0  # until there may be room for output files

logger = logging.getLogger("vllm.phi_vision.batches")


class _Run:
    """A batch while this process works at it; `batch` tells how it stands.

    Args:
        batch: as it was read.
        store: where it is written.
    """

    def __init__(self, batch: Batch, store: BatchStore) -> None:
        self.batch = batch
        self.stop = asyncio.Event()  # no further line is to be asked
        self.changed = asyncio.Event()  # `batch` is to be written
        self._store = store
        self.items = metrics.BatchItems()
        self._writing = threading.Lock()

    async def save(self, **changes: Any) -> None:
        """Change the batch and write it."""
        self.changed.clear()
        self.batch = replace(self.batch, **changes)
        await asyncio.to_thread(self._write)

    def _write(self) -> None:
        with self._writing:  # the last to write writes the latest, also if it was cancelled meanwhile
            self._store.write(self.batch)

    async def publish(self) -> None:
        """Write what has changed, as often as the disk allows."""
        while True:
            await self.changed.wait()
            await self.save()

    def see(self, progress: Progress) -> None:
        """Count the lines that have ended."""
        counts = progress.counts
        self.items.show(counts)
        self.batch = replace(self.batch, completed=counts["done"], failed=counts["failed"])
        self.changed.set()


class BatchRuns:
    """The batches that this process runs, all side by side: `BatchPlaces` gives each its turn.

    Args:
        app: the application that answers the lines.
        store: where the batches lie.
        files: where their files lie.
        lifecycle: of the server.
        limits: of a batch.
        keys: the API keys that may be used; none: open to all.
        line_sizes: how many places a line of an endpoint takes, where that is not one.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: BatchStore,
        files: FileStore,
        lifecycle: Lifecycle,
        limits: Limits,
        *,
        keys: Sequence[str] = (),
        line_sizes: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._store = store
        self._files = files
        self._lifecycle = lifecycle
        self._limits = limits
        self._keys = {files.owner(key): key for key in keys or [""]}
        self._line_sizes = line_sizes or {}
        self._clock = clock
        self._stopping = asyncio.Event()
        self._heavy = asyncio.Lock()  # one whole file at a time: threads and memory are for requests
        self._running: dict[str, tuple[_Run, asyncio.Task[None]]] = {}

    async def keep_going(self) -> None:
        """Take up what nobody runs, and delete what is old, until the server stops."""
        if self._files.reason:
            return  # which is logged where files are kept
        await self._lifecycle.serving()
        await asyncio.gather(
            self._repeat(self._take_up, _TAKE_UP_INTERVAL_S), self._repeat(self._sweep, _SWEEP_INTERVAL_S)
        )

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, None]], interval_s: float) -> None:
        said = ""
        while not self._stopping.is_set():
            try:
                await work()
            except RequestError as error:
                if str(error) != said:
                    logger.warning("batches cannot be run: %s", error)
                said = str(error)
            await self._pause(interval_s)

    async def _take_up(self) -> None:
        for batch in await asyncio.to_thread(self._store.unended):
            self.start(batch)

    async def _sweep(self) -> None:
        await asyncio.to_thread(self._store.sweep)

    def start(self, batch: Batch) -> None:
        """Run a batch, unless it is run here already or its owner's key is no longer one."""
        if self._stopping.is_set() or batch.id in self._running or batch.owner not in self._keys:
            return
        run = _Run(batch, self._store)
        # A context of its own: a batch is no part of the request that made it.
        task = asyncio.get_running_loop().create_task(self._work(run), context=Context())
        self._running[batch.id] = run, task
        task.add_done_callback(lambda _: self._running.pop(batch.id))

    async def stop(self) -> None:
        """Put back the lines that are at work, and end; the next start goes on."""
        self._stopping.set()
        for run, _ in self._running.values():
            run.stop.set()
        if tasks := [task for _, task in self._running.values()]:
            await asyncio.wait(tasks)

    async def _work(self, run: _Run) -> None:
        path = self._store.folder(run.batch) / "queue.sqlite"
        try:
            with await asyncio.to_thread(Queue, path, exclusive=True) as queue:
                # It may have gone on elsewhere since it was read.
                run.batch = await asyncio.to_thread(self._store.get, run.batch.id, run.batch.owner)
                if not run.batch.has_ended:
                    await self._advance(run, queue)
            if run.batch.has_ended:
                await asyncio.to_thread(self._store.clean, run.batch)
        except QueueInUse:
            pass  # another process runs it
        except Exception as error:
            unforeseen = None if isinstance(error, PhiVisionError) else error
            logger.error(
                "the batch %s has stopped, and goes on later: %s", run.batch.id, error, exc_info=unforeseen
            )
            run.items.show({})
            await self._pause(_FAULT_WAIT_S)
        finally:
            run.items.show({})

    async def _advance(self, run: _Run, queue: Queue) -> None:
        """Bring a batch from where it stands to its end, or until the server stops."""
        if self._is_over(run.batch):
            run.stop.set()
        async with _beside(self._watch(run)), _beside(run.publish()):
            if run.batch.in_progress_at is None:
                await self._validate(run, queue)
            if not run.batch.has_ended:
                run.items.show(queue.counts())
                ask = self._line_ask(run.batch)
                await run_queue(queue, ask, ConcurrencyLimit.auto(), on_change=run.see, stop=run.stop)
        if not run.batch.has_ended and not self._stopping.is_set():
            await self._finish(run, queue)

    async def _validate(self, run: _Run, queue: Queue) -> None:
        """Fill the queue; the batch fails if a line cannot be run."""
        async with self._heavy:
            errors = await asyncio.to_thread(self._fill, run.batch, queue)
        now = int(self._clock())
        if errors:
            await run.save(status="failed", failed_at=now, errors=errors)
        else:
            await run.save(status="in_progress", in_progress_at=now, total=sum(queue.counts().values()))

    def _fill(self, batch: Batch, queue: Queue) -> list[dict[str, Any]]:
        with self._files.usable(), FileStore.open_held(self._store.input_path(batch)) as opened:
            limits = self._limits
            lines = InputLines(opened, batch.endpoint, limits.max_batch_lines, limits.max_body_bytes)
            queue.add(lines)
            return lines.errors

    def _line_ask(self, batch: Batch) -> InProcessAsk:
        return InProcessAsk(
            app=self._app,
            batch_id=batch.id,
            endpoint=batch.endpoint,
            input_path=self._store.input_path(batch),
            owner=batch.owner,
            key=self._keys[batch.owner],
            places=self._lifecycle.batch_places,
            size=self._line_sizes.get(batch.endpoint, 1),
            has_room=self._files.has_room,
            is_alive=lambda: self._lifecycle.alive,
        )

    async def _finish(self, run: _Run, queue: Queue) -> None:
        """Make the output files of a batch whose lines have ended, or that is to end early."""
        cancelling_at = self._store.cancelling_at(run.batch)
        status: Status = "completed"
        if queue.counts()["waiting"]:
            status = "cancelled" if cancelling_at else "expired"
        await run.save(status="finalizing", finalizing_at=int(self._clock()), cancelling_at=cancelling_at)
        kept = None
        while kept is None and not self._stopping.is_set():
            try:
                async with self._heavy:
                    kept = await asyncio.to_thread(keep_results, queue, self._files, run.batch, status)
            except RequestError as error:
                logger.warning("the files of the batch %s wait for room: %s", run.batch.id, error)
                await self._pause(_RETRY_S)
        if kept is not None:
            output_id, error_id = kept
            ended = {"status": status, f"{status}_at": int(self._clock())}
            await run.save(output_file_id=output_id, error_file_id=error_id, **ended)

    async def _watch(self, run: _Run) -> None:
        """Stop the run when its batch is cancelled or expires."""
        while not self._is_over(run.batch):
            await asyncio.sleep(_POLL_S)
        run.stop.set()

    def _is_over(self, batch: Batch) -> bool:
        return self._clock() >= batch.expires_at or self._store.cancelling_at(batch) is not None

    async def _pause(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._stopping.wait()


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on meanwhile; what it failed with is raised at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
