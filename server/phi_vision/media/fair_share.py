"""What one request may take of the decoders: a turn in the queue for each of its pictures, and its time."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

_SHORTEST_WAIT_S = 0.02  # between two calls of `enforce`


class DecodeShare:
    """The share of one request. Its pictures may be decoded by several threads at once.

    Args:
        limit_s: decoder time of all pictures together; two decoders at work for one second take two.
        clock: seconds that never go back.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._left_s = limit_s
        self._clock = clock
        self._next_turn = 0
        self._workers: list[subprocess.Popen[bytes]] = []  # at work for this request
        self._since = 0.0  # when `_left_s` was right
        self._lock = threading.Lock()

    def take_turn(self, current: int) -> int:
        """The turn of its next picture, while the queue is at `current`: one picture in each turn.

        This is start-time fair queueing: the second picture of a request waits behind the first of
        every other, and a newcomer never waits for more than one picture of each.
        """
        turn = max(current, self._next_turn)
        self._next_turn = turn + 1
        return turn

    @property
    def spent(self) -> bool:
        """Whether no time is left."""
        return self._left_s <= 0

    @contextlib.contextmanager
    def at_work(self, worker: subprocess.Popen[bytes]) -> Iterator[None]:
        """Count the time of this worker; `enforce` kills it when none is left."""
        with self._lock:
            self._settle()
            self._workers.append(worker)
            if self.spent:  # since the caller looked
                self._kill()
        try:
            yield
        finally:
            with self._lock:
                self._settle()
                self._workers.remove(worker)

    def enforce(self, most_workers: int) -> float:
        """Kill its workers if no time is left.

        Args:
            most_workers: that can be at work for it.

        Returns:
            Seconds after which to call again: before, its time cannot be spent.
        """
        with self._lock:
            self._settle()
            if self.spent:
                self._kill()
            return max(_SHORTEST_WAIT_S, self._left_s / most_workers)

    def give_up(self) -> None:
        """Nobody waits for this request any more: free its decoders."""
        with self._lock:
            self._left_s = 0
            self._kill()

    def _settle(self) -> None:
        now = self._clock()
        self._left_s -= len(self._workers) * (now - self._since)
        self._since = now

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()
