"""What a start on a GPU compiles with: a C compiler for Triton and torch.compile, nvcc for FlashInfer."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from phi_vision.errors import UsageError

FLASHINFER_NEEDS = "nvcc, ninja and a C++ compiler on the PATH, or the package flashinfer-jit-cache"
REMEDY = "install gcc and Python's headers (Debian and Ubuntu: apt install gcc python3-dev)"


def check() -> None:
    """Find out now, not after a minute of loading, that nothing can be compiled.

    Raises:
        UsageError: no C compiler or no Python headers; the message names the remedy.
    """
    if fault := find_fault():
        raise UsageError(f"{fault}: {REMEDY}")


def find_fault() -> str | None:
    """What a start on a GPU misses to compile with; None if nothing."""
    # As `triton.runtime.build` looks for them.
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or shutil.which(compiler.split()[0]) is None:
        missing = f"the C compiler {compiler} that CC names" if compiler else "a C compiler"
        return f"a GPU's kernels are compiled at the start, but {missing} is not here"
    headers = Path(sysconfig.get_path("include", "posix_prefix"))
    if not (headers / "Python.h").exists():
        return f"a GPU's kernels are compiled at the start, but Python's headers are not in {headers}"
    return None


def flashinfer_can_sample() -> bool:
    """Whether FlashInfer's kernels for top-p and top-k are here, compiled or to be compiled.

    vLLM takes them for granted and ends at the first sampling where they are not ("Could not find nvcc").
    `VLLM_USE_FLASHINFER_SAMPLER=0` can go once vLLM asks itself, as it does for FlashInfer's attention.
    """
    if importlib.util.find_spec("flashinfer_jit_cache") is not None:
        return True
    # As `flashinfer.jit.cpp_ext` looks for them.
    nvcc = shutil.which("nvcc")
    cuda_home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    cuda_home = cuda_home or (str(Path(nvcc).parent.parent) if nvcc else "/usr/local/cuda")
    tools = (str(Path(cuda_home) / "bin" / "nvcc"), "ninja", os.environ.get("CXX", "c++"))
    return all(shutil.which(tool) for tool in tools)
