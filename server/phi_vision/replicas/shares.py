"""A machine divided among servers: a GPU for each, or a part of a CPU's cores and memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.processes import tie_to_parent

# Flags of vLLM's that give a server more than its share, or have it listen where no balancer finds it.
_FLAGS = {
    "--tensor-parallel-size": "each server has one GPU",
    "--pipeline-parallel-size": "each server has one GPU",
    "--data-parallel-size": "each server has one engine",
    **dict.fromkeys(
        ("--uds", "--grpc", "--headless", "--ssl-keyfile", "--ssl-certfile", "--root-path"),
        "the balancer speaks plain HTTP to each server",
    ),
}
# With these a request would change, or ask for, what only one server has.
_VARIABLES = {
    "VLLM_ENABLE_RESPONSES_API_STORE": "a stored response is known to one server only",
    "VLLM_SERVER_DEV_MODE": "its routes act on one server only",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "its routes act on one server only",
}
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True)
class Share:
    """What one server has of the machine.

    Args:
        text: for people.
        flags: of `phi-vision serve`.
        env: variables.
        cores: that its processes may use; None: all.
    """

    text: str
    flags: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cores: frozenset[int] | None = None

    def enter(self) -> None:
        """In the new process, before its program: take the share, and end with the parent."""
        if self.cores is not None:
            with contextlib.suppress(AttributeError):  # macOS binds no process
                os.sched_setaffinity(0, self.cores)
        tie_to_parent()


def divide(
    config: ServeConfig, kind: str, replicas: int | None, *, gpus: Sequence[str], cores: Sequence[int]
) -> list[Share]:
    """A share for each server.

    Args:
        config: of the servers.
        kind: of the device.
        replicas: how many; None: one for each GPU.
        gpus: as `CUDA_VISIBLE_DEVICES` names them.
        cores: of the CPU.

    Raises:
        UsageError: the machine is too small for so many.
    """
    if kind == "cuda":
        count = replicas or len(gpus)
        if count > len(gpus):
            raise UsageError(f"--replicas {count}: each takes a GPU, and there are {len(gpus)}")
        # In the order of `nvidia-smi`, which the plan of memory asks; CUDA's own is by speed.
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **os.environ}["CUDA_DEVICE_ORDER"]
        flags = _workers(config, len(cores) // count)
        return [
            Share(f"GPU {gpu}", flags, {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": order})
            for gpu in gpus[:count]
        ]
    if kind != "cpu":
        raise UsageError("replicas need NVIDIA GPUs or a CPU")
    if replicas is None:
        raise UsageError("say how many: --replicas N, each with its part of the cores")
    if replicas > len(cores):
        raise UsageError(f"--replicas {replicas}: each takes a core, and there are {len(cores)}")
    if _BINDING in os.environ:
        raise UsageError(f"{_BINDING} would bind every server to the same cores: unset it")
    share = round(config.gpu_memory_utilization / replicas, 3)
    ends = [number * len(cores) // replicas for number in range(replicas + 1)]
    parts = [cores[first:end] for first, end in pairwise(ends)]
    return [
        Share(
            f"cores {','.join(map(str, part))}",
            ("--gpu-memory-utilization", str(share), *_workers(config, len(part))),
            cores=frozenset(part),
        )
        for part in parts
    ]


def check(flags: EngineFlags, environ: Mapping[str, str]) -> None:
    """Refuse what cannot be right with several servers.

    Raises:
        UsageError: names it.
    """
    for flag, reason in _FLAGS.items():
        if flag in flags.names:
            raise UsageError(f"{flag} does not go with replicas: {reason}")
    for variable, reason in _VARIABLES.items():
        if environ.get(variable, "0").lower() not in ("", "0", "false"):
            raise UsageError(f"{variable} does not go with replicas: {reason}")


def _workers(config: ServeConfig, cores: int) -> tuple[str, ...]:
    """Processes that decode pictures: as many as cores, unless the user says otherwise."""
    return () if config.limits.media_workers else ("--media-workers", str(max(1, cores)))
