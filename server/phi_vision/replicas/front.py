"""The balancer's HTTP server: uvicorn, with the limits on connections that each server has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from phi_vision.serving.connections import Connection, limits_of

_BACKLOG = 128  # connections accepted in one step
_CLOSED_WITHIN_S = 5  # connections that wait, at the end


def http_server(app: ASGIApp) -> uvicorn.Server:
    """Not started yet. `app` has the limits in its state."""
    config = uvicorn.Config(
        app,
        http=_Connection,
        lifespan="off",
        access_log=False,  # each server has its own
        log_level="warning",
        backlog=_BACKLOG,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_CLOSED_WITHIN_S,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are for the process."""
        yield


class _Connection(Connection):
    """At most `--max-connections` are open: a new one closes the one that has waited longest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) <= limits_of(self.config).max_connections:
            return
        others = [c for c in self.connections if isinstance(c, _Connection) and c is not self]
        waiting = [(c.waiting_since, c) for c in others if c.waiting_since is not None]
        (min(waiting, key=lambda pair: pair[0])[1] if waiting else self).abort()
