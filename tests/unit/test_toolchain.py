"""What a GPU's kernels are compiled with: found out before anything is loaded."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from phi_vision.errors import UsageError
from phi_vision.planning import toolchain

Tools = Callable[..., None]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    """A machine that has these programs and nothing else."""
    for name in ("CC", "CXX", "CUDA_HOME", "CUDA_PATH", "VLLM_USE_FLASHINFER_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def have(*names: str) -> None:
        for name in names:
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)

    return have


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return tmp_path / "Python.h"


def test_a_compiler_and_headers_are_enough(tools: Tools, headers: Path) -> None:
    tools("gcc")
    toolchain.check()


def test_what_is_missing_is_named_with_its_remedy(
    tools: Tools, headers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"a C compiler is not here: .*apt install gcc python3-dev"):
        toolchain.check()
    tools("clang")
    toolchain.check()
    headers.unlink()
    with pytest.raises(UsageError, match=r"Python's headers are not in .*apt install gcc python3-dev"):
        toolchain.check()
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(UsageError, match="no-such-compiler -O2 that CC names"):
        toolchain.check()


def test_flashinfers_sampler_needs_its_tools_or_its_kernels(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not toolchain.flashinfer_can_sample()
    tools("nvcc", "ninja")
    assert not toolchain.flashinfer_can_sample()
    tools("c++")
    assert toolchain.flashinfer_can_sample()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "no-toolkit"))  # wins over the PATH
    assert not toolchain.flashinfer_can_sample()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "flashinfer_jit_cache" or None)
    assert toolchain.flashinfer_can_sample()
