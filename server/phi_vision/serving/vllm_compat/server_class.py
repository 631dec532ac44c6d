"""Limit the number of connections: a new one closes the one that has been idle longest.

Symptom: 400 idle connections ended a server with 256 file descriptors.
Cause: uvloop's own server closes its listening socket for good when it runs out of descriptors, uvicorn has
no such limit (its `limit_concurrency` answers 503, but keeps the connections open), and vLLM has no setting
for the class of its server.
Can go: when uvicorn or vLLM limits connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import MutableSequence

import uvicorn
from vllm.entrypoints.launchers import launcher
from vllm.entrypoints.launchers.launcher import NoSignalServer

from phi_vision.errors import RequestError
from phi_vision.serving import metrics, startup_process
from phi_vision.serving.connections import MAX_HEAD_BYTES, Connection, limits_of


def install() -> None:
    """Have vLLM create a `LimitedServer` in this process."""
    launcher.NoSignalServer = LimitedServer


class LimitedServer(NoSignalServer):
    """vLLM's server with our connections, at most `Limits.max_connections` of them.

    It always uses vLLM's accept loop for several API processes, because that loop survives a failed accept.
    """

    def __init__(
        self, config: uvicorn.Config, peer_loads: tuple[MutableSequence[int], int] | None = None
    ) -> None:
        super().__init__(config, peer_loads or ([0], 0))
        config.http_protocol_class = Connection
        self._max_connections = limits_of(config).max_connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, once nobody else does."""
        await startup_process.relieve()
        await super().startup(sockets)

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
    """Answer 503, as far as the socket takes it without waiting."""
    metrics.REFUSALS.labels("connections").inc()
    error = RequestError("all connections are in use; try again later", status=503, retry_after_s=2)
    body = json.dumps(error.body()).encode()
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    lines = [f"{name}: {value}\r\n" for name, value in error.headers().items()]
    conn.setblocking(False)
    with conn, contextlib.suppress(OSError):
        if not encrypted:
            conn.send("".join([head, *lines, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body)
            conn.recv(MAX_HEAD_BYTES)  # a close with bytes unread would take the answer back
