"""How much of a device the server may take: of its memory, and of vLLM's work at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.memory import BF16_BYTES, CUDA_CONTEXT_BYTES, FLOAT32_BYTES, EngineLimits


@dataclass(frozen=True)
class Budget:
    """The server's share of a device's memory, and what of that is free now."""

    total_bytes: int
    share_bytes: int
    free_bytes: int
    share: float  # of the total, as asked for

    @property
    def bytes(self) -> int:
        """What the server may take."""
        return min(self.share_bytes, self.free_bytes)

    @property
    def is_held_back(self) -> bool:
        """Whether other programs hold so much that less than the server's share is free."""
        return self.free_bytes < self.share_bytes

    @property
    def memory_utilization(self) -> float:
        """vLLM's `--gpu-memory-utilization`: it does not start with a share larger than what is free."""
        if not self.is_held_back:
            return self.share
        return math.floor(1000 * self.free_bytes / self.total_bytes) / 1000


def memory_budget(device: Device, share: float) -> Budget:
    """The budget on a device for a share from 0 to 1.

    On a GPU the CUDA context, and what vLLM does not profile, are not free for vLLM.
    """
    total = device.memory_bytes
    outside = 2 * CUDA_CONTEXT_BYTES if device.kind == "cuda" else 0
    free = total if device.free_bytes is None else max(0, device.free_bytes - outside)
    return Budget(total, math.ceil(total * share), free, share)


def engine_limits(flags: EngineFlags, device: Device, max_model_len: int, num_crops: int) -> EngineLimits:
    """What the user gave of vLLM's limits, else vLLM's defaults (`EngineArgs.get_batch_defaults`).

    Args:
        flags: for vLLM.
        device: which decides about vLLM's defaults.
        max_model_len: context in tokens.
        num_crops: of the largest picture.
    """
    if device.kind == "cpu":
        tokens, seqs = 2048, 128
    elif device.memory_bytes >= 160 * GIB:
        tokens, seqs = 16384, 1024
    elif device.memory_bytes >= 70 * GIB and "a100" not in device.name.lower():
        tokens, seqs = 8192, 1024
    else:
        tokens, seqs = 2048, 256
    seqs = flags.max_num_seqs or seqs
    tokens = flags.max_num_batched_tokens or min(tokens, seqs * max_model_len)
    element_bytes = FLOAT32_BYTES if flags.is_float32 else BF16_BYTES
    return EngineLimits(min(seqs, tokens), tokens, num_crops, element_bytes)
