"""A run that kills itself with SIGKILL at a given point; in a process of its own.

    python -m tests.support.killed_run QUEUE ASKED NUM_ITEMS POINT AFTER

Each item that is asked is written to the file ASKED first, one key a line. The process ends when POINT is
reached for the AFTERth time:

- `listing`: an item is read to be added;
- `asking`: an item is asked, some others with it;
- `writing`: an outcome is written, its transaction is still open;
- `committed`: a round of outcomes is committed;
- `never`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.queue import Queue
from phi_vision.batch.runner import Progress, run
from phi_vision.batch.work import Item, ItemError, Record

CONCURRENCY = 7
POISONOUS = 50  # each such item fails


class _Killer:
    def __init__(self, point: str, after: int) -> None:
        self.point = point
        self.left = after

    def reached(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _Queue(Queue):
    killer: _Killer

    def finish(self, record: Record, result: Mapping[str, Any]) -> Record:
        finished = super().finish(record, result)
        self.killer.reached("writing")
        return finished


def answer(key: str) -> dict[str, Any]:
    """What the item with this key is answered."""
    return {"text": hashlib.sha256(key.encode()).hexdigest() * 20}


def main(queue_path: str, asked_path: str, num_items: int, killer: _Killer) -> None:
    """Run until the end, or until killed."""
    asked = os.open(asked_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def items() -> Iterator[Item]:
        for number in range(num_items):
            killer.reached("listing")
            yield Item(f"page {number}", {"number": number})

    async def ask(item: Item) -> Mapping[str, Any]:
        os.write(asked, f"{item.key}\n".encode())
        for _ in range(item.request["number"] % 3):  # they end in another order than they began
            await asyncio.sleep(0)
        killer.reached("asking")
        if item.request["number"] % POISONOUS == 0:
            raise ItemError("poisonous", cause="unreadable")
        return answer(item.key)

    def on_change(progress: Progress) -> None:
        killer.reached("committed")

    with _Queue(Path(queue_path)) as queue:
        queue.killer = killer
        queue.add(items())
        asyncio.run(run(queue, ask, ConcurrencyLimit(CONCURRENCY), on_change=on_change))


if __name__ == "__main__":
    _, queue_, asked_, num_items_, point_, after_ = sys.argv
    main(queue_, asked_, int(num_items_), _Killer(point_, int(after_)))
