"""What the machine has: RAM and what the plan makes of it, cores, shared memory, and open files."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from phi_vision.cores import count_cores
from phi_vision.doctor.finding import Finding, ok, skipped, warn
from phi_vision.doctor.setup import Setup
from phi_vision.limits import Limits
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.front_end import plan_front_end
from phi_vision.planning.hardware import GIB, Device, processor
from phi_vision.planning.planner import choose, plan_candidates, skip_reason

SHARED_MEMORY = Path("/dev/shm")

_GPU_RAM_BYTES = 16 * 10**9  # beside a GPU: the weights pass through RAM on their way
_LOW_SHARED_BYTES = 256 << 20  # vLLM's processes share queues of 160 to 240 MiB where there are several GPUs
_FILES_PER_CONNECTION = 2


def ram(setup: Setup) -> Finding:
    """The memory of the machine or container."""
    found = processor()
    free = "" if found.free_bytes is None else f"{found.free_bytes / GIB:.1f} GiB free of "
    summary = f"{free}{found.memory_bytes / GIB:.1f} GiB"
    if setup.gpu and found.memory_bytes < _GPU_RAM_BYTES and not setup.is_demo:
        return warn(
            summary, f"beside a GPU, {_GPU_RAM_BYTES / 1e9:.0f} GB are advised for loading the weights"
        )
    return ok(summary)


def plan(setup: Setup) -> Finding | None:
    """Whether the model fits into the device's memory, as `serve` would plan it."""
    if setup.running:
        return skipped("a server is running already; GET /v1/plan shows its memory")
    device, dimensions = setup.device, setup.dimensions
    if not isinstance(device, Device):
        return None
    if dimensions is None:
        return skipped(f"the sizes of {setup.config.model} are not known before its config.json is here")
    flags = _flags(device)
    if reason := skip_reason(flags, device):
        return skipped(reason)
    chosen = choose(plan_candidates(setup.config, flags, device, dimensions), device)
    name = "the demo" if setup.is_demo else setup.hub_id
    return ok(
        f"{name} fits with {chosen.plan.max_model_len:,} tokens: {chosen.profile}, {chosen.precision.label}"
    )


def cores(setup: Setup) -> Finding | None:
    """Whether the cores keep up with the GPU, as `serve` would plan it."""
    device, dimensions = setup.gpu, setup.dimensions
    if device is None or dimensions is None:
        return None
    flags = _flags(device)
    chosen = next((c for c in plan_candidates(setup.config, flags, device, dimensions) if c.plan.fits), None)
    memory = chosen.plan if chosen else None
    found = plan_front_end(setup.config, flags, device, count_cores(), dimensions, memory)
    assert found is not None  # only flags of vLLM's put it elsewhere
    short = [rate for rate in found.rates if rate.bottleneck == "the cores" and rate.cores_wanted]
    if not short:
        return ok(found.line)
    wanted = max(rate.cores_wanted or 0 for rate in short)
    return warn(found.line, f"the GPU waits for pictures here: {wanted} cores would keep up with it")


def shared_memory(_: Setup) -> Finding | None:
    """Containers get 64 MiB by default."""
    if not SHARED_MEMORY.is_dir():
        return None
    found = os.statvfs(SHARED_MEMORY)
    free_bytes, total_bytes = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    summary = f"{_size(free_bytes)} of {_size(total_bytes)} are free in {SHARED_MEMORY}"
    if free_bytes < _LOW_SHARED_BYTES:
        return warn(
            f"{summary}; vLLM needs {_size(_LOW_SHARED_BYTES)} with several GPUs",
            "start the container with --ipc=host or --shm-size=1g; elsewhere, remove old files there",
        )
    return ok(summary)


def open_files(_: Setup) -> Finding:
    """Whether the system allows as many connections as `serve` does."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return ok("no limit")
    wanted = _FILES_PER_CONNECTION * Limits.max_connections
    if hard < wanted:
        return warn(
            f"at most {hard}, so the server takes fewer than {Limits.max_connections} connections",
            f"raise the limit (ulimit -Hn, or LimitNOFILE of the service) above {wanted}",
        )
    return ok(f"{hard} at most")


def _flags(device: Device) -> EngineFlags:
    return EngineFlags.parse((), os.environ).for_device(device)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / (1 << 20):.0f} MiB"
