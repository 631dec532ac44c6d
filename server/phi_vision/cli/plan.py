"""`phi-vision plan`: what fits on this machine's device or a named GPU, on one screen. Starts nothing."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from phi_vision.config import ServeConfig
from phi_vision.cores import count_cores
from phi_vision.errors import UsageError
from phi_vision.planning.budget import memory_budget
from phi_vision.planning.checkpoint import DEMO_FOLDER, find_dimensions
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.front_end import FrontEnd, plan_front_end
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import GIB, Device, this_machine
from phi_vision.planning.launch_plan import engine_environment, engine_flags
from phi_vision.planning.memory import PICTURE_PX, PICTURE_TEXT_TOKENS, MemoryPlan
from phi_vision.planning.planner import Candidate, no_fit_message, plan_candidates
from phi_vision.spec import PHI_3_5_VISION

# Settings of `serve` that the plan depends on, in the order of the printed command line.
SETTINGS = ("profile", "max_model_len", "num_crops", "num_crops_multi", "gpu_memory_utilization")
DOCTOR_SETTINGS = ("model", "device", "port", *SETTINGS)  # likewise of the checks of `doctor`


def show_plan(options: argparse.Namespace) -> None:
    """Run the command with parsed `options` (see `cli`).

    Raises:
        UsageError: flags that exclude one another, or nothing fits (after printing the table).
    """
    device = _device(options)
    config = ServeConfig(**{name: getattr(options, name) for name in SETTINGS})
    model_path = _model_path(options.model)
    flags, model = EngineFlags().for_device(device), find_dimensions(model_path)
    found = plan_candidates(config, flags, device, model)
    chosen = next((candidate for candidate in found if candidate.plan.fits), None)
    cores, memory = options.cores or count_cores(), chosen.plan if chosen else None
    front_end = plan_front_end(config, flags, device, cores, model, memory)
    show = _as_json if options.json else _as_text
    print(show(device, model_path, config, found, chosen, front_end))
    if chosen is None:
        raise UsageError(no_fit_message(found, device))


def commands(chosen: Candidate, config: ServeConfig, device: Device, model_path: str) -> dict[str, str]:
    """The command lines that serve this candidate: ours, and plain vLLM's with phi-vision installed."""
    config = replace(config, profile=chosen.profile, max_model_len=chosen.plan.max_model_len)
    ours = ["phi-vision", "serve"]
    if model_path != PHI_3_5_VISION.hub_id:
        ours += ["--model", model_path]
    for name in SETTINGS:
        value = getattr(config, name)
        if value != getattr(ServeConfig, name):
            ours += ["--" + name.replace("_", "-"), str(value)]
    flags = engine_flags(config, EngineFlags().for_device(device), device, chosen)
    theirs = ["vllm", "serve", model_path, *(word for flag in flags for word in flag)]
    if config.most_crops != ServeConfig.num_crops:
        theirs += ["--mm-processor-kwargs", json.dumps(vars(config.crop_policy))]
    environment = [f"{k}={v}" for k, v in engine_environment(device, chosen).items()]
    return {"phi-vision": shlex.join(ours), "vllm": shlex.join([*environment, *theirs])}


def _device(options: argparse.Namespace) -> Device:
    if (options.vram is None) != (options.capability is None):
        raise UsageError("--vram and --capability go together")
    if options.gpu and options.vram is not None:
        raise UsageError("--gpu names a GPU, --vram describes one: give one of them")
    if options.gpu:
        return named_gpu(options.gpu)
    if options.vram is None:
        return this_machine()
    capability = re.fullmatch(r"(\d+)\.(\d+)", options.capability)
    if capability is None or not (math.isfinite(options.vram) and options.vram > 0):
        raise UsageError("--vram takes GiB above zero, --capability major.minor, for example 8.6")
    major, minor = (int(part) for part in capability.groups())
    return Device("cuda", f"a GPU of {options.vram:g} GiB", round(options.vram * GIB), (major, minor))


def _model_path(wanted: str) -> str:
    return str(DEMO_FOLDER) if wanted == "demo" else wanted


def _as_text(
    device: Device,
    model_path: str,
    config: ServeConfig,
    found: Sequence[Candidate],
    chosen: Candidate | None,
    front_end: FrontEnd | None,
) -> str:
    first = found[0].plan
    capability = f", compute capability {'.'.join(map(str, device.capability))}" if device.capability else ""
    held_back = memory_budget(device, config.gpu_memory_utilization).is_held_back
    free = ", all that is free now" if held_back else ""
    lines = [
        f"{device.name}: {device.memory_bytes / GIB:.1f} GiB{capability}; "
        f"the server may take {first.budget_bytes / GIB:.1f}{free}",
        f"{model_path}, context of {first.max_model_len:,} tokens, "
        f"up to {config.most_crops} crops; sizes in GiB",
        "",
        f"  {'profile':<9} {'weights':<13} {'KV cache':<19} {'text':>5} {'vision':>6} {'activ.':>6} "
        f"{'runtime':>7} {'KV':>6} {'KiB/token':>9} {'longest':>8} {'pictures':>8}",
        *(_row(candidate, candidate is chosen) for candidate in found),
        "",
    ]
    shown = chosen or max(found, key=lambda candidate: candidate.plan.longest_context)
    lines.append(_picture_line(shown.plan, config))
    if chosen is None:
        return "\n".join(lines)
    lines += [f"> {chosen.line}", *(f"  {reason}" for reason in chosen.plan.reasons), ""]
    if front_end is not None:
        lines += [*front_end.table(), f"> {front_end.line}", ""]
    lines += [f"  {line}" for line in commands(chosen, config, device, model_path).values()]
    return "\n".join(lines)


def _row(candidate: Candidate, is_chosen: bool) -> str:
    plan = candidate.plan
    sizes = (plan.text_weights_bytes, plan.vision_weights_bytes, plan.activations_bytes, plan.runtime_bytes)
    text, vision, activations, runtime = (f"{size / GIB:.2f}" for size in sizes)
    return (
        f"{'>' if is_chosen else ' '} {candidate.profile:<9} {plan.weights:<13} {plan.kv_dtype:<19} "
        f"{text:>5} {vision:>6} {activations:>6} {runtime:>7} {plan.kv_available_bytes / GIB:>6.2f} "
        f"{plan.kv_bytes_per_token / 1024:>9g} {plan.longest_context:>8,} {plan.pictures_at_once:>8}"
    )


def _picture_line(plan: MemoryPlan, config: ServeConfig) -> str:
    width, height = PICTURE_PX
    return (
        f"an {width}x{height} picture at {config.most_crops} crops = "
        f"{plan.picture_tokens:,} tokens = {plan.picture_kv_bytes / 2**20:.0f} MiB of KV as {plan.kv_dtype}; "
        f"{plan.pictures_at_once} such requests run at once, with {PICTURE_TEXT_TOKENS} tokens of text each"
    )


def _as_json(
    device: Device,
    model_path: str,
    config: ServeConfig,
    found: Sequence[Candidate],
    chosen: Candidate | None,
    front_end: FrontEnd | None,
) -> str:
    plans = {
        "device": vars(device),
        "model": model_path,
        "plans": [candidate.to_json() for candidate in found],
        "chosen": found.index(chosen) if chosen else None,
        "quality_cost": chosen.precision.quality if chosen else None,
        "front_end": front_end.to_json() if front_end else None,
        "commands": commands(chosen, config, device, model_path) if chosen else None,
    }
    return json.dumps(plans, indent=2)
