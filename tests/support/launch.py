"""Launch plans for tests: a device, vLLM's flags and our settings in, what would run out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phi_vision.config import ServeConfig
from phi_vision.planning.checkpoint import Checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.installation import Installation
from phi_vision.planning.launch_plan import LaunchPlan, make_launch_plan
from phi_vision.planning.planner import Candidate, choose, plan_candidates
from phi_vision.spec import PHI_3_5_VISION

A10, T4, A100_80, H100 = (named_gpu(name) for name in ("a10", "t4", "a100-80", "h100"))
CPU = Device("cpu", "x86_64", round(23.5 * GIB), free_bytes=round(22 * GIB))
CORES = 16
PUBLISHED = Checkpoint(PHI_3_5_VISION.hub_id, PHI_3_5_VISION.served_name, PHI_3_5_VISION.dimensions)


def launch(
    device: Device = A10,
    *flags: str,
    environ: Mapping[str, str] | None = None,
    checkpoint: Checkpoint = PUBLISHED,
    installation: Installation | None = None,
    cores: int = CORES,
    keyed: bool = False,
    **settings: Any,
) -> LaunchPlan:
    """What `serve` would run there."""
    parsed = EngineFlags.parse(flags, environ or {})
    there = installation or Installation()
    config = ServeConfig(**settings)
    return make_launch_plan(config, parsed, device, checkpoint, there, cores, keyed=keyed)


def candidates(
    device: Device, *flags: str, environ: Mapping[str, str] | None = None, **settings: Any
) -> list[Candidate]:
    """The plans of all candidates there."""
    parsed = EngineFlags.parse(flags, environ or {})
    return plan_candidates(ServeConfig(**settings), parsed, device, PHI_3_5_VISION.dimensions)


def chosen(
    device: Device, *flags: str, environ: Mapping[str, str] | None = None, **settings: Any
) -> Candidate:
    """The candidate that is served there."""
    return choose(candidates(device, *flags, environ=environ, **settings), device)


def value_of(argv: Sequence[str], flag: str) -> str:
    """The value of a flag that stands once."""
    assert argv.count(flag) == 1, (flag, argv)
    return argv[argv.index(flag) + 1]


def row_of(plan: LaunchPlan, name: str) -> str:
    """A row of the summary's table."""
    (row,) = [line for line in plan.summary.splitlines() if line.split()[: len(name.split())] == name.split()]
    return row
