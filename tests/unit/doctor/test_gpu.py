"""A GPU with each fault, by recorded answers of its driver's tool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from phi_vision.config import ServeConfig
from phi_vision.doctor import gpu
from phi_vision.doctor.finding import Finding, Level
from phi_vision.doctor.setup import Setup
from phi_vision.planning import hardware, toolchain

from tests.support.setups import setup_with

Smi = Callable[..., None]

HELD = "NVIDIA A10, 23028, 438, 12000, 8.6, [N/A]"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with vLLM's CUDA build and the torch that goes with it."""
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cuda")
    monkeypatch.setattr(hardware, "_torch_for_cuda_12", lambda: False)
    monkeypatch.setattr(gpu, "torch_cuda", lambda: "13.0")


def driver() -> Finding:
    found = gpu.driver(Setup())
    assert found is not None
    return found


def held() -> Finding:
    found = gpu.gpu_memory(setup_with(running=None))
    assert found is not None
    return found


def test_a_gpu_without_faults(cuda: None, smi: Smi) -> None:
    smi()
    assert (driver().level, driver().summary) == (Level.OK, "580.95.05, and torch is built for CUDA 13.0")
    found = gpu.device(Setup())
    assert found.level == Level.OK
    assert found.summary == "cuda: NVIDIA A10, 22.1 GiB, compute capability 8.6"
    assert (held().level, held().summary) == (Level.OK, "22.1 of 22.1 GiB are free")


def test_a_driver_that_is_too_old(cuda: None, smi: Smi) -> None:
    smi(driver="550.54.15")
    assert (driver().level, driver().summary) == (Level.FAIL, "550.54.15 is too old for CUDA 13.0")
    assert "version 580 or later" in str(driver().remedy)
    found = gpu.device(Setup())
    assert found.level == Level.FAIL and "too old" in found.summary


def test_no_driver(cuda: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver().level == Level.FAIL and "--gpus all" in str(driver().remedy)
    assert gpu.device(Setup()).level == Level.FAIL


@pytest.mark.parametrize("program", ["exit 9", "exec sleep 600"])
def test_a_driver_that_gives_no_answer(
    program: str, cuda: None, smi: Smi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "_SMI_LIMIT_S", 0.1)
    smi()
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/bin:/bin")
    (tmp_path / "tools" / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
    assert (driver().level, driver().summary) == (Level.FAIL, "nvidia-smi gives no answer")


def test_slices_of_a_gpu(cuda: None, smi: Smi) -> None:
    smi("NVIDIA H100 80GB HBM3, 81559, 534, 80994, 9.0, Enabled")
    found = gpu.device(Setup())
    assert found.level == Level.FAIL and "MIG" in found.summary


def test_who_holds_the_memory_is_named(cuda: None, smi: Smi) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "input()", "phi_vision"], stdin=subprocess.PIPE)
    with holder:
        smi(HELD, processes=f"{holder.pid}, 9000, python\n999999999, [N/A], /opt/game, of war\nno answer")
        assert held().level == Level.WARN and held().remedy
        assert held().summary == (
            f"11.7 of 22.1 GiB are free; held by phi-vision (process {holder.pid}) 8.8 GiB, "
            "/opt/game, of war (process 999999999)"
        )


def test_memory_that_is_held_outside_a_container(cuda: None, smi: Smi) -> None:
    smi(HELD)
    assert held().summary.endswith("held by programs that are not seen from here")


def test_a_running_server_may_hold_it(cuda: None, smi: Smi) -> None:
    smi(HELD)
    found = gpu.gpu_memory(setup_with(running=Setup().endpoint))
    assert found and found.level == Level.OK


def test_nothing_to_compile_with(cuda: None, smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    smi()
    found = gpu.compiler(Setup())
    assert found and found.level == Level.FAIL and found.remedy == toolchain.REMEDY
    monkeypatch.setattr(toolchain, "find_fault", lambda: None)
    for can_sample, said in ((True, "FlashInfer's sampler too"), (False, "vLLM's own sampler")):
        monkeypatch.setattr(toolchain, "flashinfer_can_sample", lambda can=can_sample: can)
        found = gpu.compiler(Setup())
        assert found and found.level == Level.OK and said in found.summary


def test_on_a_cpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver().level == Level.SKIPPED
    assert gpu.gpu_memory(Setup()) is None and gpu.compiler(Setup()) is None
    found = gpu.device(Setup())
    assert found.level == Level.OK and found.summary.startswith("cpu: ")
    found = gpu.device(Setup(ServeConfig(device="cuda")))
    assert found.level == Level.FAIL and "make install ACCEL=cuda" in found.summary


def test_a_gpu_that_is_not_used(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cpu")
    smi()
    assert driver().level == Level.WARN and "ACCEL=cuda" in str(driver().remedy)


def test_without_an_engine_there_is_no_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed_engine", lambda: None)
    assert gpu.driver(Setup()) is None
    assert gpu.device(Setup()).level == Level.FAIL


def test_a_processor_that_is_slow_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = hardware.Device("cpu", "old", 8 << 30, has_avx512=False, has_fast_bfloat16=False)
    monkeypatch.setattr(hardware, "find_device", lambda _: slow)
    assert "without AVX-512: it serves in float32" in gpu.device(Setup()).summary
