"""Limits on one HTTP connection, and how many connections a process can afford.

Symptom: connections without a request, or with half a request head, stayed open for ever.
Cause: uvicorn limits neither the time nor the size of a request head, nor the time a client takes to read.
Can go: when uvicorn has these limits. `vllm_compat.server_class` limits the number of connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from phi_vision.limits import Limits
from phi_vision.serving import descriptors

MAX_HEAD_BYTES = 65_536  # of a head; also of what is neither head nor body, such as trailers

logger = logging.getLogger("vllm.phi_vision.connections")


def fit_to_descriptors(limits: Limits) -> Limits:
    """The limits with as many connections as this process has file descriptors for.

    Connections get half of the free descriptors, as other work needs some too. One connection is left that no
    request holds, so that a probe can still be answered.
    """
    wanted = limits.max_connections
    possible = max(2, min(wanted, descriptors.count_free() // 2))
    if possible == wanted:
        return limits
    logger.warning(
        "at most %d connections, not %d, and fewer requests: raise the limit of open files", possible, wanted
    )
    requests = limits.max_num_queued_reqs
    return replace(
        limits,
        max_connections=possible,
        max_num_queued_reqs=None if requests is None else min(requests, possible - 1),
    )


class _Timer:
    """Calls `action` after a delay, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float, action: Callable[[], None]) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._delay_s, self._action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP connection with limits on time and size.

    A client has `client_timeout_s` to send a request head, counted from the start of the connection or from
    the head's first byte, and as long to read each 48 KiB of an answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting_since: float | None = None  # the loop's time; None while a request is at work
        timeout_s = limits_of(self.config).client_timeout_s
        self._head_timer = _Timer(self.loop, timeout_s, self.abort)
        self._read_timer = _Timer(self.loop, timeout_s, self.abort)
        self._overhead = 0  # bytes since the last head or piece of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Start to wait for the first head."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._head_timer.start()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a head or body."""
        self._overhead += len(data)
        super().data_received(data)
        if self._at_work:
            self.waiting_since = None
            self._head_timer.stop()
        else:
            self._head_timer.start()
        if self._overhead > MAX_HEAD_BYTES:
            self.abort()

    def on_headers_complete(self) -> None:
        """Count from here what follows the head."""
        self._overhead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Do not count the body, which has a limit of its own."""
        self._overhead = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Leave the wait for the next head's first byte to uvicorn's keep-alive timeout."""
        super().on_response_complete()
        if not self._at_work:
            self.waiting_since = self.loop.time()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._read_timer.start()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._read_timer.stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, whoever closed the connection."""
        self._head_timer.stop()
        self._read_timer.stop()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once without sending the rest; from here on the connection is not counted."""
        self.waiting_since = None
        self.connections.discard(self)
        self.transport.abort()

    @property
    def _at_work(self) -> bool:
        """Whether a request is being answered, or a websocket has taken over."""
        upgraded = self not in self.connections
        return upgraded or (self.cycle is not None and not self.cycle.response_complete)


def limits_of(config: uvicorn.Config) -> Limits:
    """The limits of the app that uvicorn serves."""
    return cast(FastAPI, config.app).state.phi_vision_limits
