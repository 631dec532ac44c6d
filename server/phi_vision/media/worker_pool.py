"""Draw canvases of pictures in worker processes that may die.

Image decoders are C code fed by strangers. In a process of its own, with a memory limit and none of the
server's secrets, a decoder that crashes, hangs or swells costs one request: the worker is killed and the next
picture starts another. The decoded picture, up to 50 megapixels, never leaves the worker; what the server
reads is the canvas, at most 5.4 MB. Requests share the workers fairly, see `fair_share`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.pages import may_have_pages
from phi_vision.media.view import FIRST_PAGE, PageView
from phi_vision.media.worker_process import WorkerProcess
from phi_vision.model.canvas import Canvas
from phi_vision.model.crops import CropLimit

logger = logging.getLogger("vllm.phi_vision.worker_pool")


@dataclass(eq=False)
class _Job:
    """A file that waits for a worker."""

    data: bytes
    ask: Callable[[WorkerProcess, bytes], Any]  # what the worker is to do with it
    share: DecodeShare
    turn: int
    done: Future[Any] = field(default_factory=Future)


class WorkerPool:
    """Draws up to `workers` canvases at once, each in a process of its own.

    Args:
        limits: what one picture may be.
        workers: processes.
        request_s: worker time of all pictures of one request.
        on_death: called in any thread when a worker has crashed or run out of memory.
    """

    def __init__(
        self,
        limits: PictureLimits,
        workers: int,
        request_s: float,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._workers = workers
        self._request_s = request_s
        self._on_death = on_death
        self._threads = ThreadPoolExecutor(workers, "picture-worker")
        self._idle: list[WorkerProcess | None] = [
            None
        ] * workers  # the last one worked last; None has not started
        self._waiting: list[_Job] = []
        self._turn = 0  # of the picture taken last
        self._lock = threading.Lock()

    def share(self) -> DecodeShare:
        """The share of a new request, to be given with each of its pictures."""
        return DecodeShare(self._request_s)

    def warm_up(self) -> None:
        """Start all workers, so that the first pictures do not wait for that."""
        with self._lock:
            self._idle = [worker or self._start() for worker in self._idle]

    async def draw(
        self, data: bytes, limit: CropLimit, share: DecodeShare | None = None, view: PageView = FIRST_PAGE
    ) -> Canvas:
        """The canvas of a picture or of a page of a file, see `pages.draw`.

        Args:
            data: the file.
            limit: the most crops it may get.
            share: of the request that the picture belongs to; without, it is a request of its own.
            view: what of the file is drawn.

        Raises:
            PictureRefused: it is not taken, its decoder crashed, or the request's time is spent.
        """
        canvas: Canvas = await self._run(data, lambda worker, data: worker.draw(data, limit, view), share)
        return canvas

    async def count_pages(self, data: bytes, share: DecodeShare | None = None) -> int:
        """How many pages a file has: a PDF's pages, a TIFF's frames, one of any other picture.

        Only PDF and TIFF files are looked at. It costs little however many there are.

        Raises:
            PictureRefused: as `draw`.
        """
        if not may_have_pages(data):
            return 1
        count: int = await self._run(data, lambda worker, data: worker.count_pages(data), share)
        return count

    async def extract_page(
        self, data: bytes, page: int, max_bytes: int, share: DecodeShare | None = None
    ) -> bytes:
        """One page of a file, counted from 0, as a file by itself, see `pages.extract_page`.

        Raises:
            PictureRefused: as `draw`; or the page alone has more than `max_bytes`.
        """
        file: bytes = await self._run(
            data, lambda worker, data: worker.extract_page(data, page, max_bytes), share
        )
        return file

    async def _run(
        self, data: bytes, ask: Callable[[WorkerProcess, bytes], Any], share: DecodeShare | None
    ) -> Any:
        """Give a file to a worker when it is its turn."""
        share = share or self.share()
        with self._lock:
            job = _Job(data, ask, share, share.take_turn(self._turn))
            self._waiting.append(job)
        self._threads.submit(self._draw_next)
        drawn = asyncio.wrap_future(job.done)
        try:
            # Here and not in a timer: starting a thread for each picture costs more than reading its canvas.
            while not drawn.done():
                await asyncio.wait([drawn], timeout=share.enforce(self._workers))
            return drawn.result()
        except asyncio.CancelledError:  # the client has gone
            drawn.cancel()
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)
            share.give_up()
            raise

    def close(self) -> None:
        """End the workers; the pictures that still wait are not drawn."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._idle:
            if worker is not None:
                worker.end()

    def _draw_next(self) -> None:
        """Draw the picture whose turn it is, if one still waits: the first to come of the lowest turn."""
        with self._lock:
            if not self._waiting:
                return
            job = min(self._waiting, key=lambda job: job.turn)
            self._waiting.remove(job)
            self._turn = job.turn
        if not job.done.set_running_or_notify_cancel():
            return
        try:
            job.done.set_result(self._draw(job))
        except BaseException as error:
            job.done.set_exception(error)

    def _draw(self, job: _Job) -> Any:
        share = job.share
        too_slow = PictureRefused(
            f"the pictures of this request took longer than {share.limit_s:g} s to draw; send fewer of them"
        )
        if share.spent:
            raise too_slow
        worker = self._take()
        try:
            with share.at_work(worker.process):
                return job.ask(worker, job.data)
        except (OSError, EOFError) as error:
            code = worker.end()
            if share.spent:
                raise too_slow from error
            # The file itself is not logged: it is the client's.
            logger.warning("a picture worker ended with %s; another will start", code)
            self._on_death()
            raise PictureRefused("its decoder crashed or ran out of memory; save it anew") from error
        finally:
            if share.spent:  # it may have been killed just when it was done
                worker.end()
            with self._lock:
                self._idle.append(worker)

    def _take(self) -> WorkerProcess:
        """An idle worker that is alive. There are as many as threads, so there is one."""
        with self._lock:
            worker = self._idle.pop()
        if worker is not None and worker.alive:
            return worker
        try:
            return self._start()
        except BaseException:
            with self._lock:
                self._idle.append(None)
            raise

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self._program(), str(self._limits.max_pixels), str(self._request_s))

    def _program(self) -> list[str]:
        """What a worker runs; its arguments follow."""
        return [sys.executable, "-P", "-m", "phi_vision.media.worker"]
