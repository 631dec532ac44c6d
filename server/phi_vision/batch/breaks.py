"""Connections that break while an answer is awaited: is it the server's fault, or the item's?

A server that ends takes all of its requests with it, so a break says little about an item. One that brings
its server down each time is told from the others by asking items in doubt one at a time, and only of a server
that has just answered something else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from phi_vision.batch.servers import MAX_BACKOFF_S
from phi_vision.batch.work import ItemError, TryLater

MAX_BREAKS = 5  # in a row of one item
_BREAKS_IN_DOUBT = 2


class Breaks:
    """Counts, for each item whose connection broke, until it is answered or given up."""

    def __init__(self) -> None:
        self._breaks: Counter[str] = Counter()
        self._one_in_doubt = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[bool]:
        """The time in which the item may be asked, and whether it is in doubt: those wait for each other."""
        if self._breaks.get(key, 0) < _BREAKS_IN_DOUBT:
            yield False
            return
        async with self._one_in_doubt:
            yield True

    def forget(self, key: str) -> None:
        """Let go of an item that is in doubt no more."""
        self._breaks.pop(key, None)

    def broke(self, key: str, reason: str) -> TryLater | ItemError:
        """Note a break; what is to be raised for it."""
        self._breaks[key] += 1
        if self._breaks[key] == MAX_BREAKS:
            self.forget(key)
            return ItemError(f"{reason}, {MAX_BREAKS} times in a row", cause="no answer")
        return TryLater(reason, min(2.0 ** (self._breaks[key] - 1), MAX_BACKOFF_S))
