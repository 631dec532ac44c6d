"""GPUs by name: their memory, and how fast they are at best. None need be in this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.roofline import Rates

# What good kernels reach of the data sheet's rate: assumed. Cards of 70 to 150 W do not hold their clocks.
_REACHED = 0.8
_REACHED_AT_LOW_POWER = 0.5

# Words by which a name means another card than the one that it begins like.
_OTHER_CARDS = frozenset({"Ti", "SUPER", "D", "Laptop", "NVL"})


@dataclass(frozen=True)
class _Gpu:
    """One of the well-known GPUs.

    Args:
        name: as the driver tells it, in part: all of its words.
        memory_gib: as CUDA reports it (as in torch's out-of-memory messages; it differs by some 0.1 with the
            driver).
        capability: of CUDA.
        tflops: dense bf16 products with float32 sums; fp16 for the T4, which has no bf16.
        gb_per_s: memory bandwidth.
        reached: share of `tflops`.
    """

    name: str
    memory_gib: float
    capability: tuple[int, int]
    tflops: float
    gb_per_s: float
    reached: float = _REACHED

    @property
    def rates(self) -> Rates:
        return Rates(self.tflops * self.reached, self.gb_per_s)


# Rates of NVIDIA's data sheets, without sparsity; of the GeForce cards, from the white papers of GA102 and
# AD102. Where a card comes in several forms, of the fastest: A100 and H100 as SXM.
_GPUS: Mapping[str, _Gpu] = {
    "t4": _Gpu("Tesla T4", 14.6, (7, 5), 65, 320, _REACHED_AT_LOW_POWER),
    "3090": _Gpu("GeForce RTX 3090", 23.6, (8, 6), 71, 936),
    "4090": _Gpu("GeForce RTX 4090", 23.5, (8, 9), 165, 1008),
    "a10": _Gpu("A10", 22.1, (8, 6), 125, 600, _REACHED_AT_LOW_POWER),
    "l4": _Gpu("L4", 22.0, (8, 9), 121, 300, _REACHED_AT_LOW_POWER),
    "l40s": _Gpu("L40S", 44.4, (8, 9), 362, 864),
    "a100-40": _Gpu("A100 40GB", 39.4, (8, 0), 312, 1555),
    "a100-80": _Gpu("A100 80GB", 79.2, (8, 0), 312, 2039),
    "h100": _Gpu("H100 80GB", 79.1, (9, 0), 989, 3350),
    "h200": _Gpu("H200", 139.7, (9, 0), 989, 4800),
}
GPU_NAMES = tuple(_GPUS)


def named_gpu(name: str) -> Device:
    """A GPU that need not be in this machine; `name` is one of `GPU_NAMES`."""
    gpu = _GPUS[name]
    return Device("cuda", f"NVIDIA {gpu.name}", round(gpu.memory_gib * GIB), gpu.capability)


def rates_of(device_name: str | None) -> Rates | None:
    """How fast the GPU of this name is at best; None: not known. NVML's names: `NVIDIA A100-SXM4-80GB`."""
    words = set((device_name or "").replace("-", " ").split())
    if words & _OTHER_CARDS:
        return None
    return next((gpu.rates for gpu in _GPUS.values() if set(gpu.name.split()) <= words), None)
