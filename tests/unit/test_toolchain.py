"""What a GPU's kernels are compiled with: found out before anything is loaded."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from phi_vision.cli import serve
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning import toolchain
from phi_vision.planning.hardware import Device, named_gpu

A10 = named_gpu("a10")
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


def test_serve_asks_before_it_loads_and_only_for_a_gpu(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    class NextStepError(Exception):
        pass

    def next_step(*_: object) -> None:
        raise NextStepError

    monkeypatch.setattr(serve.startup, "end_at_once_on_signals", lambda *_: None)
    monkeypatch.setattr(serve.startup, "listen", next_step)
    monkeypatch.setattr(serve, "find_device", lambda _: A10)
    with pytest.raises(UsageError, match="a C compiler is not here"):
        serve.serve(ServeConfig())
    monkeypatch.setattr(serve, "find_device", lambda _: Device("cpu", "x86_64", 24 << 30))
    with pytest.raises(NextStepError):
        serve.serve(ServeConfig())


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


def test_without_a_toolkit_vllm_samples_itself_and_the_summary_says_so(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = serve.environment(A10)
    assert chosen["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "0")
    checkpoint = serve.Checkpoint("microsoft/Phi-3.5-vision-instruct", "phi-3.5-vision")
    (line,) = [x for x in serve.summary(ServeConfig(), A10, checkpoint).splitlines() if "sampler" in x]
    assert "vLLM's own" in line and "nvcc" in line and "flashinfer-jit-cache" in line
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")  # the user's choice
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in serve.environment(A10)
    assert "sampler" not in serve.summary(ServeConfig(), A10, checkpoint)
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER")
    tools("nvcc", "ninja", "c++")
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in serve.environment(A10)
