"""Machines with one fault: a driver's tool with recorded answers, packages, a cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Smi = Callable[..., None]
Distribution = Callable[..., None]


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Smi:
    """An `nvidia-smi` that gives these answers, the only program on the PATH."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def answers(
        gpu: str = "NVIDIA A10, 23028, 438, 22586, 8.6, [N/A]", driver: str = "580.95.05", processes: str = ""
    ) -> None:
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        (folder / "nvidia-smi").write_text(
            f"#!/bin/sh\ncase $* in *driver_version*) echo '{driver}';; *compute-apps*) echo '{processes}';; "
            f"*) echo '{gpu}';; esac\n"
        )
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return answers


@pytest.fixture
def distribution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Distribution:
    """Metadata of a package, which stands before that of one that is installed."""

    def put(name: str, version: str, *headers: str, entry_points: str = "") -> None:
        folder = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *headers]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        (folder / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(str(folder.parent))

    return put


@pytest.fixture
def broken_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """A module that cannot be imported by the Pythons that a test starts."""

    def put(name: str, error: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"raise {error}\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return put
