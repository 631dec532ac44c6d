"""How many connections there are, and how long one may say nothing.

Symptom: 400 idle connections ended a server with 256 file descriptors, and connections without a request,
or with half a head, stayed for ever. Cause: uvloop's own server closes its listening socket for good when it
runs out of descriptors; uvicorn bounds neither a head's time nor its size, nor the number of connections.
Can go when uvicorn has these limits (its `limit_concurrency` answers 503, but keeps the connections).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, MutableSequence
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from vllm.entrypoints.launchers import launcher
from vllm.entrypoints.launchers.launcher import NoSignalServer

from phi_vision.errors import RequestError
from phi_vision.serving import descriptors

MAX_HEAD_BYTES = 65_536  # of a head; also of what is neither head nor body, such as trailers

logger = logging.getLogger("vllm.phi_vision.connections")


def install() -> None:
    """Have vLLM make a `GuardedServer` in this process: it has no setting for the class of its server."""
    launcher.NoSignalServer = GuardedServer


def connection_cap(wanted: int) -> int:
    """Connections at most: as many as wanted, and half of the free descriptors, for work needs some too."""
    cap = max(2, min(wanted, descriptors.count_free() // 2))
    if cap < wanted:
        logger.warning(
            "at most %d connections, not %d, and fewer requests: raise the limit of open files", cap, wanted
        )
    return cap


def requests_cap(connections: int) -> int:
    """Requests at work at most: one connection is left that can make room for a probe."""
    return connections - 1


class _Timer:
    """Does something once, unless it is stopped before."""

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
    """uvicorn's connection, with limits on what a client sends before a request and on how it reads.

    A client has `client_timeout_s` from a connection's beginning, or a head's first byte, to the end of the
    head; and as much to take what it was sent, 48 KiB at a time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting_since: float | None = None  # the loop's time; None while a request is at work
        timeout_s: float = cast(FastAPI, self.config.app).state.phi_vision_client_timeout_s
        self._head_timer = _Timer(self.loop, timeout_s, self.abort)
        self._read_timer = _Timer(self.loop, timeout_s, self.abort)
        self._overhead = 0  # bytes since the last head or piece of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """The first head is awaited."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._head_timer.start()

    def data_received(self, data: bytes) -> None:
        """Some of a head or body."""
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
        """The parser has a head."""
        self._overhead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser has some of a body."""
        self._overhead = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """From here on uvicorn's own time-out counts, until the next head's first byte."""
        super().on_response_complete()
        if not self._at_work:
            self.waiting_since = self.loop.time()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        self._read_timer.start()

    def resume_writing(self) -> None:
        """It does again."""
        self._read_timer.stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self._head_timer.stop()
        self._read_timer.stop()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close now, whatever is still to be sent; from here on it does not count."""
        self.waiting_since = None
        self.connections.discard(self)
        self.transport.abort()

    @property
    def _at_work(self) -> bool:
        """Whether a request is being answered, or a websocket has taken over."""
        upgraded = self not in self.connections
        return upgraded or (self.cycle is not None and not self.cycle.response_complete)


class GuardedServer(NoSignalServer):
    """vLLM's server with a cap on connections: the one that waits longest makes room for a new one.

    vLLM's loop that accepts for several processes serves one process too: it outlives a failed accept.
    """

    def __init__(
        self, config: uvicorn.Config, peer_loads: tuple[MutableSequence[int], int] | None = None
    ) -> None:
        super().__init__(config, peer_loads or ([0], 0))
        config.http_protocol_class = Connection
        self._max_connections: int = cast(FastAPI, config.app).state.phi_vision_max_connections

    async def _connect(self, loop: asyncio.AbstractEventLoop, conn: socket.socket) -> None:
        if (
            len(self.server_state.connections) + self._connecting > self._max_connections
            and not self._evict()
        ):
            _refuse(conn, encrypted=self.config.ssl is not None)
            self._connecting -= 1
            self._publish_load()
            return
        await super()._connect(loop, conn)  # asyncio gives a TLS handshake 60 s

    def _evict(self) -> bool:
        connections = [c for c in self.server_state.connections if isinstance(c, Connection)]
        waiting = [(c.waiting_since, c) for c in connections if c.waiting_since is not None]
        if not waiting:
            return False
        min(waiting, key=lambda pair: pair[0])[1].abort()
        return True


def _refuse(conn: socket.socket, *, encrypted: bool) -> None:
    """503, as far as that can be said without waiting."""
    error = RequestError("all connections are in use; try again later", status=503, retry_after_s=2)
    body = json.dumps(error.body()).encode()
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    lines = [f"{name}: {value}\r\n" for name, value in error.headers().items()]
    conn.setblocking(False)
    with conn, contextlib.suppress(OSError):
        if not encrypted:
            conn.send("".join([head, *lines, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body)
            conn.recv(MAX_HEAD_BYTES)  # a close with bytes unread would take the answer back
