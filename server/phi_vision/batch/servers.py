"""Several servers: which takes the next request, and which are left alone for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from phi_vision.batch.work import TryLater
from phi_vision.client.exchange import Endpoint
from phi_vision.client.text import one_line

MAX_BACKOFF_S = 60.0
MAX_TOLD_WAIT_S = 600.0  # of a `Retry-After`: a server that names a day is asked before
_TRIAL_WAIT_S = 1.0


class Unavailable(Exception):
    """A server takes no requests now.

    Args:
        reason: in words, which follow the server's address.
        wait_s: that it named itself.
        is_full: it works, on other requests.
    """

    def __init__(self, reason: str, wait_s: float | None = None, *, is_full: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s
        self.is_full = is_full


@dataclass(eq=False)
class Server:
    """A server, and how it is doing.

    Args:
        endpoint: where it is.
        in_flight: requests that it has now.
        num_asked: requests that it has had.
        allowance: how many it had when it last said that it was full.
        failures: in a row.
        leave_until_s: it is not asked before this time of the clock.
        unavailable: what it last was left alone for.
        on_trial: one request is under way that shows whether it is back.
    """

    endpoint: Endpoint
    in_flight: int = 0
    num_asked: int = 0
    allowance: int | None = None
    failures: int = 0
    leave_until_s: float = -math.inf
    unavailable: Unavailable | None = None
    on_trial: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return one_line(self.endpoint.base_url)


class Servers:
    """Shares requests out.

    The next one goes to the server with the fewest in flight, measured by how many it takes. One that fails
    is left alone for as long as it says, else for twice as long each time; then a single request tries it.

    Args:
        endpoints: at least one.
        clock: in seconds.
    """

    def __init__(self, endpoints: Sequence[Endpoint], clock: Callable[[], float] = time.monotonic) -> None:
        self.all = tuple(Server(endpoint) for endpoint in endpoints)
        self._clock = clock

    def check(self) -> None:
        """Fail where no request could be sent now.

        Raises:
            TryLater: none takes a request now.
        """
        self._next(())

    @contextmanager
    def take(self, besides: Collection[Server] = ()) -> Iterator[Server]:
        """A server for one request, which it has for the time of the `with`.

        Args:
            besides: those that are not to be asked.

        Raises:
            TryLater: none takes a request now.
        """
        server = self._next(besides)
        server.on_trial = is_trial = server.failures > 0
        server.in_flight += 1
        server.num_asked += 1
        try:
            yield server
        finally:
            server.in_flight -= 1
            server.on_trial = server.on_trial and not is_trial

    def answered(self, server: Server) -> None:
        """Note that the server works."""
        server.failures = 0
        server.on_trial = False

    def leave(self, server: Server, error: Unavailable) -> None:
        """Note that the server takes no requests for a while. Call it while the request is in flight."""
        now_s = self._clock()
        server.unavailable = error
        if error.is_full:
            server.allowance = max(1, server.in_flight - 1)
        if now_s < server.leave_until_s:
            return  # others in flight met the same
        if error.wait_s is not None:
            wait_s = min(error.wait_s, MAX_TOLD_WAIT_S)
        else:
            wait_s = min(2.0**server.failures, MAX_BACKOFF_S)
        server.failures += 1
        server.leave_until_s = now_s + wait_s

    def _next(self, besides: Collection[Server]) -> Server:
        now_s = self._clock()
        free = [
            server
            for server in self.all
            if server not in besides and server.leave_until_s <= now_s and not server.on_trial
        ]
        if not free:
            raise self._try_later(now_s, besides)
        most = max((server.allowance for server in self.all if server.allowance), default=1)
        return min(free, key=lambda server: (server.in_flight / (server.allowance or most), server.num_asked))

    def _try_later(self, now_s: float, besides: Collection[Server]) -> TryLater:
        """Once the first of them may be asked again."""
        waits_s = [
            max(server.leave_until_s - now_s, _TRIAL_WAIT_S if server.on_trial else 0.0)
            for server in self.all
        ]
        errors = {
            server.name: server.unavailable
            for server in self.all
            if server.unavailable and (server.leave_until_s > now_s or server.on_trial or server in besides)
        }
        return TryLater(
            "; ".join(f"{name} {error.reason}" for name, error in errors.items()),
            max(0.0, min(waits_s)),
            is_overload=any(error.is_full for error in errors.values()),
        )
