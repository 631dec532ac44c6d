"""Connections that break while an answer is awaited: is it the server's fault, or the item's?

A server that ends takes all of its requests with it, so a break says little about an item. One that brings
its server down each time is told from the others by asking items in doubt one at a time: the others get their
answers then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from phi_vision.batch.servers import MAX_BACKOFF_S
from phi_vision.batch.work import ItemError, TryLater

MAX_BREAKS = 5  # in a row of one item, with answers to others between them
MAX_BREAKS_ALONE = 15  # in a row, where nothing else is answered: the item may be the last
_BREAKS_IN_DOUBT = 2


@dataclass
class _Doubt:
    breaks: int = 0
    breaks_alone: int = 0
    num_answers: int = -1  # of all other items, at the last break


class Breaks:
    """Counts, for each item whose connection broke, until it is answered or given up."""

    def __init__(self) -> None:
        self._doubts: dict[str, _Doubt] = {}
        self._num_answers = 0
        self._one_in_doubt = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """The time in which the item may be asked: those in doubt wait for each other."""
        doubt = self._doubts.get(key)
        if doubt is None or doubt.breaks + doubt.breaks_alone < _BREAKS_IN_DOUBT:
            yield
            return
        async with self._one_in_doubt:
            yield

    def answered(self) -> None:
        """Note that an item was answered, with an error perhaps."""
        self._num_answers += 1

    def forget(self, key: str) -> None:
        """Let go of an item that is in doubt no more."""
        self._doubts.pop(key, None)

    def broke(self, key: str, reason: str) -> TryLater | ItemError:
        """Note a break; what is to be raised for it."""
        doubt = self._doubts.setdefault(key, _Doubt())
        if self._num_answers != doubt.num_answers:
            doubt.breaks += 1
        else:
            doubt.breaks_alone += 1
        doubt.num_answers = self._num_answers
        in_a_row = doubt.breaks + doubt.breaks_alone
        if doubt.breaks >= MAX_BREAKS or in_a_row >= MAX_BREAKS_ALONE:
            del self._doubts[key]
            return ItemError(f"{reason}, {in_a_row} times in a row", cause="no answer")
        return TryLater(reason, min(2.0 ** (in_a_row - 1), MAX_BACKOFF_S))
