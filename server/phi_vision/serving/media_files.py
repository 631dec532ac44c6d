"""Files of requests in memory, and the bound on all of them together."""

from __future__ import annotations

import asyncio
import time
import weakref

from phi_vision.errors import RequestError
from phi_vision.serving.batch_places import is_batch_line

FILES_BUDGET_BYTES = 1 << 30  # of files that wait for a worker; more at once is overload
_BATCH_BUDGET_BYTES = 1 << 28  # of those that lines of batches bring
_BUDGET_TIMEOUT_S = 10


class MediaFile:
    """A picture or document, read once. It counts in its budget as long as the object lives.

    Args:
        data: the file's bytes.
        budget: that they count in.
    """

    def __init__(self, data: bytes, budget: FileBudget) -> None:
        self.data = data
        budget.files.add(self)


class FileBudgets:
    """One for the requests of clients, and a smaller one for batches, whose files keep no client waiting."""

    def __init__(self) -> None:
        self._of_clients = FileBudget()
        self._of_batches = FileBudget(_BATCH_BUDGET_BYTES)

    @property
    def current(self) -> FileBudget:
        """That of the HTTP request at hand."""
        return self._of_batches if is_batch_line.get() else self._of_clients


class FileBudget:
    """Bounds the bytes of all files that are in memory at once."""

    def __init__(self, budget_bytes: int = FILES_BUDGET_BYTES, timeout_s: float = _BUDGET_TIMEOUT_S) -> None:
        self.files: weakref.WeakSet[MediaFile] = weakref.WeakSet()
        self._budget_bytes = budget_bytes
        self._timeout_s = timeout_s

    async def wait_for_capacity(self) -> None:
        """Wait while too many files are in memory.

        Raises:
            RequestError: 429, after some time.
        """
        deadline = time.monotonic() + self._timeout_s
        while sum(len(file.data) for file in self.files) > self._budget_bytes:
            if time.monotonic() > deadline:
                raise RequestError("too many large pictures at once; try again later", status=429)
            await asyncio.sleep(0.05)
