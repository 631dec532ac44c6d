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
_LEAST_SHARE = 0.05  # of the memory, as `--gpu-memory-utilization` takes it
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True)
class Share:
    """What one server has of the machine.

    Args:
        text: for people.
        cores: that its processes may use.
        flags: of `phi-vision serve`.
        env: variables.
    """

    text: str
    cores: frozenset[int]
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def enter(self) -> None:
        """In the new process, before its program: take the share, and end with the parent."""
        with contextlib.suppress(AttributeError):  # macOS binds no process
            os.sched_setaffinity(0, self.cores)
        tie_to_parent()


def divide(
    config: ServeConfig, kind: str, replicas: int | None, *, gpus: Sequence[str], cores: Sequence[int]
) -> list[Share]:
    """A share for each server: neighbouring cores, and what goes by their number follows.

    Args:
        config: of the servers.
        kind: of the device.
        replicas: how many; None: one for each GPU.
        gpus: as `CUDA_VISIBLE_DEVICES` names them.
        cores: of the CPU.

    Raises:
        UsageError: the machine is too small for so many.
    """
    if kind not in ("cuda", "cpu"):
        raise UsageError("replicas need NVIDIA GPUs or a CPU")
    count = replicas or (len(gpus) if kind == "cuda" else 0)
    if not count:
        raise UsageError("say how many: --replicas N, each with its part of the cores")
    if kind == "cuda" and count > len(gpus):
        raise UsageError(f"--replicas {count}: each takes a GPU, and there are {len(gpus)}")
    if count > len(cores):
        raise UsageError(f"--replicas {count}: each takes a core, and there are {len(cores)}")
    if _BINDING in os.environ:
        raise UsageError(f"{_BINDING} would bind every server to the same cores: unset it")
    ends = [number * len(cores) // count for number in range(count + 1)]
    parts = [cores[first:end] for first, end in pairwise(ends)]
    if kind == "cuda":
        # In the order of `nvidia-smi`, which the plan of memory asks; CUDA's own is by speed.
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **os.environ}["CUDA_DEVICE_ORDER"]
        return [
            Share(
                f"GPU {gpu}, {_in_words(part)}",
                frozenset(part),
                env={"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": order},
            )
            for gpu, part in zip(gpus, parts, strict=False)
        ]
    share = round(config.gpu_memory_utilization / count, 3)
    if share < _LEAST_SHARE:
        asked = config.gpu_memory_utilization
        raise UsageError(f"--gpu-memory-utilization {asked} is too little for {count} servers")
    flags = ("--gpu-memory-utilization", str(share))
    return [Share(_in_words(part), frozenset(part), flags) for part in parts]


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


def _in_words(cores: Sequence[int]) -> str:
    """The shortest list of them: `cores 0-3,8`."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    ranges = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"cores {','.join(ranges)}"
