"""Places for the lines of batches: what the requests of clients leave free of a share of the capacity."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

# Whether the HTTP request at hand is a line of a batch. It has a place already, and takes none from clients.
is_batch_line: ContextVar[bool] = ContextVar("phi_vision_is_batch_line", default=False)


@dataclass(eq=False)
class _Waiter:
    owner: str
    size: int
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class BatchPlaces:
    """Gives a line its place once it is free: first to the owner who has the fewest, then in order.

    Args:
        places: how many lines run at once while no client asks.
        count_clients: how many requests of clients are at work or waiting; each takes a place away.
    """

    def __init__(self, places: int, count_clients: Callable[[], int]) -> None:
        self._places = places
        self._count_clients = count_clients
        self._taken: Counter[str] = Counter()  # by owner
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def take(self, owner: str, size: int = 1) -> AsyncIterator[None]:
        """Wait for room, and hold it meanwhile.

        Args:
            owner: who takes turns with the others.
            size: how many places it takes, for example those of a document whose pages run side by side.
        """
        waiter = _Waiter(owner, min(size, self._places))
        self._waiting.append(waiter)
        self.hand_out()
        try:
            await waiter.granted.wait()
            yield
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._taken[owner] -= waiter.size
            self.hand_out()

    def hand_out(self) -> None:
        """Give out what is free; to be called when a client's request has ended."""
        while self._waiting:
            chosen = min(self._waiting, key=lambda waiter: self._taken[waiter.owner])
            if self._count_clients() + self._taken.total() + chosen.size > self._places:
                return
            self._waiting.remove(chosen)
            self._taken[chosen.owner] += chosen.size
            chosen.granted.set()
