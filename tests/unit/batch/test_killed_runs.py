"""Runs that are killed at chosen points and started again come to what an undisturbed one comes to."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch.queue import Queue

from tests.support import killed_run
from tests.support.killed_run import CONCURRENCY, POISONOUS

NUM_ITEMS = 2300


class Run:
    """One run in a folder, in as many processes as it takes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.sqlite"
        self.asked_path = folder / "asked"
        self.may_repeat: Counter[str] = Counter()  # items that were under way when a process was killed

    def start(self, point: str, after: int = 0) -> int:
        """A process that is killed at that point; its exit code."""
        command = [sys.executable, "-m", "tests.support.killed_run", str(self.path), str(self.asked_path)]
        code = subprocess.run([*command, str(NUM_ITEMS), point, str(after)]).returncode
        under_way = self._under_way()
        assert len(under_way) <= CONCURRENCY
        self.may_repeat.update(under_way)
        return code

    def asked(self) -> Counter[str]:
        return Counter(self.asked_path.read_text().splitlines())

    def outcome(self) -> list[tuple[Any, ...]]:
        with Queue(self.path) as queue:
            return [(r.number, r.item, r.state, r.attempts, r.result, r.error) for r in queue.records()]

    def _under_way(self) -> list[str]:
        """As the file has it; a queue that is opened puts them back."""
        database = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            return [key for (key,) in database.execute("SELECT key FROM items WHERE state = 'asked'")]
        finally:
            database.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    assert run.start("never") == 0
    return run


def test_an_undisturbed_run(undisturbed: Run) -> None:
    assert set(undisturbed.asked().values()) == {1}
    for number, item, state, attempts, result, error in undisturbed.outcome():
        poisonous = number % POISONOUS == 0
        assert item.key == f"page {number}" and attempts == 1
        assert (state, error is None) == (("failed", False) if poisonous else ("done", True))
        assert result == (None if poisonous else killed_run.answer(item.key))


def test_killed_at_every_point(undisturbed: Run, tmp_path: Path) -> None:
    """Nothing is lost, nothing is there twice, and only what was under way is asked again."""
    run = Run(tmp_path)
    points = [("listing", 1500), ("asking", 1), ("asking", 333), ("writing", 1), ("writing", 401)]
    points += [("committed", 1), ("committed", 77)]
    for point, after in points:
        assert run.start(point, after) == -signal.SIGKILL
    assert run.start("never") == 0
    assert run.outcome() == undisturbed.outcome()
    asked = run.asked()
    assert set(asked) == set(undisturbed.asked())
    assert not (asked - undisturbed.asked()) - run.may_repeat
    assert (asked - undisturbed.asked()).total() > 0  # some kills did hit items under way


def test_a_run_that_is_done_asks_nothing(undisturbed: Run) -> None:
    before = undisturbed.asked()
    assert undisturbed.start("never") == 0
    assert undisturbed.asked() == before
