"""Whether the server admits requests: its queue, its shutdown and the health of its engine.

Symptom: requests that arrive after SIGTERM are lost, and a second signal does not end the wait.
Cause: vLLM drains the engine while its routes go on accepting requests, which the engine then drops, and it
ignores a second signal. Here the routes refuse new requests first, and a second signal ends the wait.
Can go: the handling of signals, when vLLM does so itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import multiprocessing
import signal
import time
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from phi_vision.errors import RequestError
from phi_vision.serving.batch_places import BatchPlaces
from phi_vision.serving.request_count import RequestCount

RETRY_AFTER_S = 2
PROBE_INTERVAL_S = 1.0
READY_SILENCE_S = 30  # without an answer from the engine; one step on a CPU can take many seconds
_ABORT_GRACE_S = 3.0
_STOPPING = RequestError("the server is stopping", status=503, retry_after_s=RETRY_AFTER_S)

logger = logging.getLogger("vllm.phi_vision.lifecycle")

_stop_requested = False  # of this process; read by the launcher when the server has ended


def stop_was_requested() -> bool:
    """Whether a signal ended the server; otherwise its engine died."""
    return _stop_requested


class Lifecycle:
    """Counts requests, probes the engine and handles SIGTERM and SIGINT.

    Args:
        engine: vLLM's client of the engine.
        state: the application's; vLLM puts its `server` there.
        max_requests: requests at work or waiting at most, of all API processes together; lines of batches do
            not count.
        shutdown_timeout_s: time that they get to finish after a signal.
        batch_places: lines of batches at work at most, of this process.
        requests: where they are counted; None: this is the only API process.
        stop_notice_s: time after a signal in which they are still taken, though the probe fails.
    """

    def __init__(
        self,
        engine: EngineClient,
        state: State,
        max_requests: int,
        shutdown_timeout_s: float,
        batch_places: int = 1,
        requests: RequestCount | None = None,
        *,
        stop_notice_s: float = 0.0,
    ) -> None:
        self.max_requests = max_requests
        self._requests = requests or RequestCount()
        self.batch_places = BatchPlaces(batch_places, lambda: self._requests.own)
        self.at_stop: list[Callable[[], Awaitable[None]]] = []  # what gives up its work at the first signal
        self._engine = engine
        self._state = state
        self._shutdown_timeout_s = shutdown_timeout_s
        self._stop_notice_s = stop_notice_s
        self._answered_at = time.monotonic()
        self._refuse_at = math.inf  # monotonic; from when on no request is taken
        self._stop_at: float | None = None  # monotonic; when requests still running are cut off
        self._tasks = [
            asyncio.create_task(self._install_signal_handlers()),
            asyncio.create_task(self._probe()),
        ]

    def admit(self) -> RequestError | None:
        """Count a new request until `leave`, or say why it is not admitted now."""
        if time.monotonic() >= self._refuse_at:
            return _STOPPING
        return None if self._requests.take(self.max_requests) else self._full()

    def leave(self) -> None:
        """A request that was admitted has been answered."""
        self._requests.give_back()
        self.batch_places.hand_out()

    @property
    def num_requests(self) -> int:
        """Requests at work or waiting in all API processes; lines of batches do not count."""
        return self._requests.total

    async def serving(self) -> None:
        """Wait until the server accepts connections."""
        while not getattr(getattr(self._state, "server", None), "started", False):
            await asyncio.sleep(0.05)

    @property
    def alive(self) -> bool:
        """Whether the engine's process runs."""
        return not self._engine.errored

    def unready_reason(self) -> str | None:
        """Why a balancer should send requests elsewhere, if it should."""
        if not self.alive:
            return "the engine is dead"
        if self._stop_at is not None:
            return str(_STOPPING)
        if self.num_requests >= self.max_requests:
            return str(self._full())
        silence_s = time.monotonic() - self._answered_at
        return f"the engine has not answered for {silence_s:.0f} s" if silence_s > READY_SILENCE_S else None

    def _full(self) -> RequestError:
        return RequestError(
            f"{self.max_requests} requests are at work or waiting; try again later",
            status=429,
            retry_after_s=RETRY_AFTER_S,
        )

    async def _probe(self) -> None:
        """Send the engine's own loop a cheap call, again and again."""
        while self.alive:
            with contextlib.suppress(Exception):  # only the missing answer matters
                async with asyncio.timeout(READY_SILENCE_S):
                    await self._engine.is_sleeping()
                self._answered_at = time.monotonic()
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _install_signal_handlers(self) -> None:
        """Replace vLLM's signal handlers, which it installs in the same step as `state.server`."""
        while not hasattr(self._state, "server"):
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        """Stop at the first signal, at once at the second.

        One of several API processes gets the first twice, where its group was sent it and the launcher passes
        it on; the second one the launcher obeys for all of them (`vllm_compat.server_start`).
        """
        global _stop_requested
        _stop_requested = True
        if self._stop_at is None:
            now = time.monotonic()
            self._refuse_at = now + self._stop_notice_s
            self._stop_at = now + max(self._stop_notice_s, self._shutdown_timeout_s)
            logger.info(
                "stopping; %d requests get %g s to finish", self._requests.own, self._shutdown_timeout_s
            )
            self._tasks.append(asyncio.create_task(self._stop(self._state.server)))
        elif multiprocessing.parent_process() is None:
            self._refuse_at = self._stop_at = time.monotonic()

    async def _stop(self, server: uvicorn.Server) -> None:
        giving_up = [asyncio.ensure_future(give_up()) for give_up in self.at_stop]
        while time.monotonic() < self._refuse_at:
            await asyncio.sleep(0.05)
        while self._requests.own and time.monotonic() < (self._stop_at or 0):
            await asyncio.sleep(0.05)
        if self._requests.own:
            logger.warning("cutting off %d requests", self._requests.own)
            for connection in list(server.server_state.connections):
                connection.transport.abort()  # the handlers see a client that is gone, and abort
            give_up_at = time.monotonic() + _ABORT_GRACE_S
            while self._requests.own and time.monotonic() < give_up_at:
                await asyncio.sleep(0.05)
        if giving_up:
            await asyncio.wait(giving_up, timeout=_ABORT_GRACE_S)
        while not server.started:  # told to exit before, uvicorn leaves its sockets open
            await asyncio.sleep(0.01)
        server.should_exit = True  # vLLM then stops the engine, which is idle, and returns
