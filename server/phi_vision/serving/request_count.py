"""How many requests of clients are at work or waiting, in all API processes of a server.

Each process has a number of its own in a small file of the server's private folder, which all of them map.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_FILE = "requests"
_BYTES = 8  # of a number


class RequestCount:
    """The numbers of all API processes.

    Args:
        folder: the server's private one; None: this process counts for itself.
        processes: how many there are.
        rank: which of them this is, from 0 on.
    """

    def __init__(self, folder: Path | None = None, processes: int = 1, rank: int = 0) -> None:
        self._lock: int | None = None
        nbytes = _BYTES * processes
        if folder is None:
            memory = mmap.mmap(-1, nbytes)
        else:
            self._lock = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._lock, nbytes)  # all to the same size, so that none takes away what is there
            memory = mmap.mmap(self._lock, nbytes)
        self._numbers = memoryview(memory).cast("q")
        self._rank = rank

    @property
    def own(self) -> int:
        """Requests of this process."""
        return self._numbers[self._rank]

    @property
    def total(self) -> int:
        """Requests of all processes."""
        return sum(self._numbers)

    def take(self, most: int) -> bool:
        """Count one more request of this process, unless there are `most` in all."""
        with self._alone():
            if self.total >= most:
                return False
            self._numbers[self._rank] += 1
        return True

    def give_back(self) -> None:
        """One request of this process has ended."""
        self._numbers[self._rank] -= 1

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process takes, for some microseconds."""
        if self._lock is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
