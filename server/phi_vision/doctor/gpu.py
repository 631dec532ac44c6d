"""The device: an NVIDIA GPU with its driver, memory and compiler, or the CPU in its place."""

from __future__ import annotations

import contextlib
import os
import shutil

import psutil

from phi_vision.doctor.finding import Finding, fail, ok, skipped, warn
from phi_vision.doctor.setup import Setup
from phi_vision.doctor.software import torch_cuda
from phi_vision.planning import toolchain
from phi_vision.planning.hardware import (
    DRIVER_REMEDY,
    GIB,
    Device,
    GpuProcess,
    driver_is_too_old,
    gpu_processes,
)

_HELD_BYTES = GIB  # less is a desktop's


def driver(setup: Setup) -> Finding | None:
    """Whether an NVIDIA driver answers, and is new enough for the CUDA of the installed torch."""
    if setup.engine is None:
        return None
    if setup.engine != "cuda":
        if setup.driver is None:
            return skipped(f"no GPU is used: this vLLM is built for the {setup.engine}")
        return warn(
            f"an NVIDIA driver {setup.driver} answers, but this vLLM is built for the {setup.engine}",
            "`make install ACCEL=cuda` to use the GPU",
        )
    if setup.driver is None and shutil.which("nvidia-smi"):
        return fail(
            "nvidia-smi gives no answer", "see what it prints; reload the driver or restart the machine"
        )
    if setup.driver is None:
        return fail(
            "no NVIDIA driver answers: there is no nvidia-smi",
            f"install one, {DRIVER_REMEDY}; in a container, start it with --gpus all",
        )
    if driver_is_too_old(setup.driver):
        return fail(f"{setup.driver} is too old for CUDA {torch_cuda()}", f"install {DRIVER_REMEDY}")
    return ok(f"{setup.driver}, and torch is built for CUDA {torch_cuda()}")


def device(setup: Setup) -> Finding:
    """What the model would run on."""
    found = setup.device
    if not isinstance(found, Device):
        return fail(found)
    summary = f"{found.kind}: {found.name}, {found.memory_bytes / GIB:.1f} GiB"
    if found.capability:
        return ok(f"{summary}, compute capability {'.'.join(map(str, found.capability))}")
    summary += f", {os.cpu_count()} cores"
    if not found.has_fast_bfloat16:
        return ok(f"{summary}, without AVX-512: it serves in float32")
    return ok(summary)


def gpu_memory(setup: Setup) -> Finding | None:
    """How much of the GPU's memory is free, and who holds the rest."""
    gpu = setup.gpu
    if gpu is None or gpu.free_bytes is None:
        return None
    held_bytes = gpu.memory_bytes - gpu.free_bytes
    summary = f"{gpu.free_bytes / GIB:.1f} of {gpu.memory_bytes / GIB:.1f} GiB are free"
    if held_bytes < _HELD_BYTES:
        return ok(summary)
    holders = ", ".join(map(_described, gpu_processes())) or "programs that are not seen from here"
    if setup.running:
        return ok(f"{summary}; held by {holders}")
    return warn(f"{summary}; held by {holders}", "end them, or the server gets what is left")


def compiler(setup: Setup) -> Finding | None:
    """Whether kernels can be compiled, which a start on a GPU does."""
    if setup.gpu is None:
        return None
    if fault := toolchain.find_fault():
        return fail(fault, toolchain.REMEDY)
    if not toolchain.flashinfer_can_sample():
        return ok(f"here; vLLM's own sampler is used, FlashInfer's needs {toolchain.FLASHINFER_NEEDS}")
    return ok("here, for FlashInfer's sampler too")


def _described(process: GpuProcess) -> str:
    size = "" if process.used_bytes is None else f" {process.used_bytes / GIB:.1f} GiB"
    return f"{title(process.pid) or process.name} (process {process.pid}){size}"


def title(pid: int) -> str | None:
    """What a process is, in a word or two; None where it is not seen from here."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        words = process.cmdline()
        ours = any("phi_vision" in word or word.endswith("phi-vision") for word in words)
        return "phi-vision" if ours else process.name()
    return None
