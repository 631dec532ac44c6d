"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from phi_vision.media.worker_pool import WorkerPool


@pytest.fixture
def make_pool() -> Iterator[Callable[..., WorkerPool]]:
    """Worker pools that end with the test."""
    pools: list[WorkerPool] = []

    def make(*args: Any, **options: Any) -> WorkerPool:
        pools.append(WorkerPool(*args, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
