"""Memory that is short: in the machine, for the plan, in /dev/shm; and too few open files."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
from phi_vision.doctor import memory
from phi_vision.doctor.finding import Level
from phi_vision.doctor.hub import HubFault
from phi_vision.doctor.setup import Setup
from phi_vision.errors import UsageError
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.hub import Listing
from phi_vision.planning.weights_cache import CachedWeights

from tests.support.setups import setup_for, setup_with

LISTING = Listing("0" * 40, {})
GONE = HubFault("it does not answer")


def on(device: Device | str, *, model: str = "auto", hub: HubFault | Listing = LISTING) -> Setup:
    """Nothing is cached and no server runs."""
    return setup_with(
        setup_for(model), device=device, hub_answer=hub, weights=CachedWeights(None), running=None
    )


def test_little_ram_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "processor", lambda: Device("cpu", "x", 8 * GIB, free_bytes=3 * GIB))
    found = memory.ram(on(named_gpu("a10")))
    assert (found.level, found.summary) == (Level.WARN, "3.0 GiB free of 8.0 GiB") and found.remedy
    assert memory.ram(on(named_gpu("a10"), hub=GONE)).level == Level.OK  # the demo is small
    assert memory.ram(on(Device("cpu", "x", 8 * GIB))).level == Level.OK  # the plan says more


def test_what_fits_and_what_does_not() -> None:
    found = memory.plan(on(named_gpu("a10")))
    assert found and found.level == Level.OK
    assert found.summary.startswith("microsoft/Phi-3.5-vision-instruct fits with 131,072 tokens: long")
    with pytest.raises(UsageError, match=r"does not fit on a small one .* needs a device with more"):
        memory.plan(on(Device("cpu", "a small one", 4 * GIB)))


def test_the_demo_is_planned_where_it_stands_in() -> None:
    found = memory.plan(on(Device("cpu", "x", 12 * GIB), hub=GONE))
    assert found and found.level == Level.OK and found.summary.startswith("the demo fits")


def test_no_plan_where_nothing_is_known() -> None:
    assert memory.plan(on("no device: get one")) is None
    found = memory.plan(on(named_gpu("a10"), model="someone/else"))
    assert found and found.level == Level.SKIPPED and "not known" in found.summary
    found = memory.plan(on(Device("mps", "a Mac", 16 * GIB)))
    assert found and found.level == Level.SKIPPED
    found = memory.plan(setup_with(on(named_gpu("a10")), running=Setup().endpoint))
    assert found and found.level == Level.SKIPPED and "/v1/plan" in found.summary


def test_cores_that_do_not_keep_up_with_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "count_cores", lambda: 2)
    found = memory.cores(on(named_gpu("h100")))
    assert found and found.level == Level.WARN and "limited by" in found.summary
    assert found.remedy and "cores would keep up" in found.remedy
    found = memory.cores(on(named_gpu("t4")))  # on which the default context does not fit
    assert found and found.level == Level.OK and "not known" in found.summary
    found = memory.cores(on(named_gpu("a10")))
    assert found and found.level == Level.OK and "limited by the GPU" in found.summary
    assert memory.cores(on(Device("cpu", "x", 8 * GIB))) is None


@pytest.mark.parametrize(("free_mib", "level"), [(64, Level.WARN), (4000, Level.OK)])
def test_shared_memory(free_mib: int, level: Level, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path)
    told = SimpleNamespace(f_bavail=free_mib, f_blocks=8000, f_frsize=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda _: told)
    found = memory.shared_memory(Setup())
    assert found and found.level == level
    assert (found.level == Level.OK) == (found.remedy is None)
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path / "not-linux")
    assert memory.shared_memory(Setup()) is None


@pytest.mark.parametrize(
    ("hard", "level"), [(1024, Level.WARN), (65536, Level.OK), (resource.RLIM_INFINITY, Level.OK)]
)
def test_open_files(hard: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, hard))
    assert memory.open_files(Setup()).level == level
