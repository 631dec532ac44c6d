"""Bounded forms of the study of runs that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies import batch_soak

pytestmark = pytest.mark.full


def test_a_client_and_a_server_that_are_killed(tmp_path: Path) -> None:
    found = batch_soak.soak(tmp_path, 120, ("no picture", "500"), ("client", "server"))
    assert found["held"], found
    assert found["disturbed"]["failed"] == {"unreadable": 1, "server": 1}


def test_many_kills_and_connections_that_break(tmp_path: Path) -> None:
    found = batch_soak.soak(tmp_path, 400, batch_soak.POISON, batch_soak.VICTIMS)
    assert found["held"], found
    assert found["disturbed"]["failed"] == {"unreadable": 4, "server": 3, "no answer": 3}


def test_the_memory_of_the_client_is_flat(tmp_path: Path) -> None:
    found = batch_soak.measure_memory(tmp_path, 4000)
    assert found["held"], found
