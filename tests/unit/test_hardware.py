"""What the driver's tool says of a GPU, and what follows; its answers are recorded ones."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from phi_vision.errors import UsageError
from phi_vision.planning import hardware

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
# nvidia-smi's line for name, memory.total, memory.reserved, memory.free, compute_cap, mig.mode.current
A10 = "NVIDIA A10, 23028, 438, 22586, 8.6, [N/A]"
Smi = Callable[..., None]


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Smi:
    """An `nvidia-smi` that gives this answer, on a machine with vLLM's CUDA build."""
    real = importlib.metadata.version
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cuda")
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.13.0" if name == "torch" else real(name)
    )

    def answers(line: str, driver: str = "580.95.05") -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            f"#!/bin/sh\ncase $* in *driver_version*) echo '{driver}';; *) echo '{line}';; esac\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return answers


def test_memory_that_the_driver_keeps_is_not_planned_with(smi: Smi) -> None:
    smi(A10)
    found = hardware.this_machine()
    assert (found.kind, found.name, found.capability) == ("cuda", "NVIDIA A10", (8, 6))
    assert found.memory_bytes == (23028 - 438) * MIB
    assert found.free_bytes == 22586 * MIB
    assert hardware.find_device("auto") == found


def test_a_gpu_that_does_not_tell_all(smi: Smi) -> None:
    smi("NVIDIA Thor, 125772, [N/A], [N/A], 11.0, [N/A]")
    found = hardware.this_machine()
    assert (found.memory_bytes, found.free_bytes) == (125772 * MIB, None)
    smi("NVIDIA Thor, [N/A], [N/A], [N/A], 11.0, [N/A]")
    assert hardware.this_machine().kind == "cpu"


def test_an_old_driver_names_its_own_remedy(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(A10, driver="550.54.15")
    with pytest.raises(UsageError) as refused:
        hardware.find_device("cuda")
    assert str(refused.value) == (
        "the NVIDIA driver 550.54.15 is too old for CUDA 13: it must be version 580 or later, "
        "or run `make install ACCEL=cpu`"
    )
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu129")
    assert hardware.find_device("cuda").name == "NVIDIA A10"  # a torch for CUDA 12, put here by hand


def test_without_a_driver_the_remedy_is_one(
    smi: Smi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.driver_fault() is None  # one may install before there is a driver
    with pytest.raises(UsageError, match=r"no NVIDIA driver .* version 580 or later, or run `make install"):
        hardware.find_device("cuda")


@pytest.mark.parametrize("visible", [None, "MIG-3e4c0a2f-8a2e-5d0c-9b6f-1a2b3c4d5e6f"])
def test_slices_of_a_gpu_are_refused(smi: Smi, visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    smi("NVIDIA H100 80GB HBM3, 81559, 534, 80994, 9.0, Enabled")
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UsageError, match=r"MIG slices is not planned for; choose a whole GPU"):
        hardware.find_device("auto")


def make(target: str, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    settings = (f"VENV={tmp_path / 'venv'}", "ACCEL=cuda", f"PYTHON={sys.executable}")
    command = ["make", *flags, target, *settings]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_make_refuses_an_old_driver_before_it_installs(smi: Smi, tmp_path: Path) -> None:
    smi(A10, driver="550.54.15")
    done = make("install", tmp_path)
    assert done.returncode == 2
    assert "the NVIDIA driver 550.54.15 is too old for CUDA 13" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "venv").exists()


def test_make_takes_torch_for_cuda_whatever_the_machine_has(tmp_path: Path) -> None:
    """`--torch-backend=auto` ends at the CPU's torch where no driver answers; so does a CPU wheel at hand."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    done = make("install", tmp_path, "-n", f"FIND_LINKS={wheels}")
    (install,) = [line for line in done.stdout.splitlines() if "uv pip install" in line]
    assert "torch-backend" not in done.stdout and str(wheels) not in install
