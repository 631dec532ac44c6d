"""The processes of a server, of which vLLM may start several, and what each of them has of the machine.

On GPUs each engine has GPUs of its own. On a CPU all share the memory and the cores, which vLLM itself
divides only where there is a NUMA node for each engine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from phi_vision.errors import UsageError
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import GIB, Device

# vLLM keeps processed pictures in RAM, 4 GiB in each API process by default: too much where the model is too.
_PICTURE_CACHES_GIB = 1.0  # of all

# With its picture workers. 0.6 GiB were measured without them (benchmarks/studies/cpu_memory.py has the whole
# server); the rest is for requests at work.
_API_PROCESS_BYTES = GIB

CORES_VARIABLE = "VLLM_CPU_OMP_THREADS_BIND"

# Balancing outside of the server, which vLLM has for mixtures of experts; it says so minutes later, or never.
_OUTER_BALANCING = {
    *("--data-parallel-external-lb", "-dpe", "--data-parallel-rank", "-dpn"),
    *("--data-parallel-multi-port-external-lb", "-dpm", "--data-parallel-hybrid-lb", "-dph"),
}


@dataclass(frozen=True)
class Processes:
    """How many there are on this machine.

    Args:
        api: that answer requests, all on one port.
        engines: that compute, each with the whole model.
        workers: of all engines, each with cores or a GPU of its own.
    """

    api: int
    engines: int
    workers: int

    @classmethod
    def of(cls, flags: EngineFlags) -> Processes:
        """Those that vLLM starts with these flags.

        Raises:
            UsageError: what cannot work with several.
        """
        for name in (word.partition("=")[0] for word in flags.argv):
            if name in _OUTER_BALANCING:
                raise UsageError(
                    f"{name} is not for this model: `phi-vision replicas` starts a server for each GPU"
                )
        engines = flags.data_parallel_size_local or flags.data_parallel_size
        api = flags.api_server_count or flags.data_parallel_size
        if flags.keeps_responses and api > 1:
            raise UsageError(
                "VLLM_ENABLE_RESPONSES_API_STORE=1 keeps each response in one API process, of which "
                f"{api} are asked for: the others would not find it; add --api-server-count 1"
            )
        return cls(api, engines, engines * flags.tensor_parallel_size * flags.pipeline_parallel_size)

    def engines_row(self, cores: str | None) -> str | None:
        """For the summary; None for one."""
        if self.engines == 1:
            return None
        return f"{self.engines}, on cores {cores}" if cores else f"{self.engines}, each on GPUs of its own"

    def engines_part(self, device: Device) -> Device:
        """What one engine has of the device."""
        if device.kind != "cpu" or self.engines == 1:
            return device
        free_bytes = None if device.free_bytes is None else device.free_bytes // self.engines
        return replace(
            device,
            name=f"{device.name} with {self.engines} engines",
            memory_bytes=device.memory_bytes // self.engines,
            free_bytes=free_bytes,
        )

    def picture_cache_gib(self, flags: EngineFlags) -> float:
        """Of one API process, on a CPU."""
        given = flags.mm_processor_cache_gib
        return _PICTURE_CACHES_GIB / self.api if given is None else given

    def bytes_beside_engine(self, flags: EngineFlags) -> int:
        """An engine's part of the memory that caches and further API processes take, on a CPU."""
        caches = round(self.api * self.picture_cache_gib(flags) * GIB)
        return (caches + max(0, self.api - self.engines) * _API_PROCESS_BYTES) // self.engines

    def cores(self, flags: EngineFlags, device: Device) -> str | None:
        """The cores of each worker as vLLM takes them (`0,1|2,3`); None where vLLM chooses by itself.

        Raises:
            UsageError: there are too few.
        """
        if device.kind != "cpu" or self.engines == 1:
            return None
        if (given := flags.cpu_cores) is not None:
            if given not in ("auto", "nobind") and given.count("|") + 1 < self.workers:
                raise UsageError(f"{CORES_VARIABLE}={given}: {self.workers} lists are needed, with | between")
            return given
        usable = device.cores[: len(device.cores) - (flags.cpu_reserved_cores or 0)]
        if len(usable) < self.workers:
            raise UsageError(
                f"each of {self.workers} engine processes needs a core; there are {len(usable)}: lower "
                "--data-parallel-size"
            )
        ends = [len(usable) * n // self.workers for n in range(self.workers + 1)]
        parts = [usable[a:b] for a, b in itertools.pairwise(ends)]
        return "|".join(",".join(map(str, part)) for part in parts)
