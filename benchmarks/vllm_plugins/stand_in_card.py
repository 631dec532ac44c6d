"""A CUDA card that is not there: vLLM's platform, with the answers of the card that the environment names.

A platform plugin: vLLM asks it in each of its processes. There is no driver, so nothing can run; what vLLM
decides by name, memory, compute capability and number of multiprocessors is decided as on the card.
"""

from __future__ import annotations

import os

from phi_vision.planning.gpus import named_gpu
from vllm.platforms.cuda import CudaPlatformBase
from vllm.platforms.interface import DeviceCapability

VARIABLE = "PHI_VISION_STAND_IN_CARD"  # environment: a name of `phi_vision.planning.gpus.GPU_NAMES`

_CARD = named_gpu(os.environ[VARIABLE])


def platform() -> str:
    """Platform plugin: the class's name."""
    return f"{__name__}.StandInCard"


class StandInCard(CudaPlatformBase):
    """vLLM's platform for CUDA, with what it would ask the driver."""

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        """The compute capability."""
        assert _CARD.capability is not None
        return DeviceCapability(*_CARD.capability)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """As the driver has it."""
        return _CARD.name

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """In bytes."""
        return _CARD.memory_bytes

    @classmethod
    def device_count(cls) -> int:
        """One card."""
        return 1

    @classmethod
    def is_integrated_gpu(cls, device_id: int = 0) -> bool:
        """It has memory of its own."""
        return False
