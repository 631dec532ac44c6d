"""The requests of all API processes, counted in one place."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from phi_vision.serving.request_count import RequestCount


def test_each_process_sees_all(tmp_path: Path) -> None:
    first, second = (RequestCount(tmp_path, 2, rank) for rank in (0, 1))
    assert first.take(3) and first.take(3) and second.take(3)
    assert not first.take(3) and not second.take(3)
    assert [(count.own, count.total) for count in (first, second)] == [(2, 3), (1, 3)]
    first.give_back()
    assert second.take(3) and (second.own, first.total) == (2, 3)


def test_one_process_counts_for_itself() -> None:
    count, other = RequestCount(), RequestCount()
    assert count.take(1) and not count.take(1)
    assert (count.own, count.total, other.total) == (1, 1, 0)


MOST = 500
barrier: Barrier


def wait_for_all(all_of_them: Barrier) -> None:
    global barrier
    barrier = all_of_them


def take_many(folder: Path, rank: int) -> int:
    count = RequestCount(folder, 2, rank)
    barrier.wait()
    return sum(count.take(MOST) for _ in range(MOST))


def test_no_two_take_the_last_place(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, wait_for_all, (spawn.Barrier(2),)) as processes:
        taken = list(processes.map(take_many, [tmp_path] * 2, range(2)))
    assert sum(taken) == MOST == RequestCount(tmp_path, 2).total
