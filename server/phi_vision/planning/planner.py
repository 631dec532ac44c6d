"""The choice of a precision: a memory plan for each candidate, and the first that fits. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.budget import engine_limits, memory_budget
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.memory import (
    BLOCK_TOKENS,
    KV_DTYPES,
    WEIGHTS_BITS,
    EngineLimits,
    MemoryPlan,
    kv_bytes_per_token,
    memory_plan,
)
from phi_vision.planning.processes import Processes
from phi_vision.planning.profiles import PROFILES, QUALITY_SECTION, Precision, precisions
from phi_vision.spec import PHI_3_5_VISION, Dimensions

# A CPU's memory is not the server's alone: the cache holds this many requests of full length, no more.
_CPU_FULL_REQUESTS = 4

# vLLM's own names of KV dtypes that are the same to us.
_KV_ALIASES = {"auto": "bf16", "bfloat16": "bf16", "fp8": "fp8_e4m3"}


@dataclass(frozen=True)
class Candidate:
    """A precision of a profile with its plan on the device."""

    profile: str  # "given": the user gave the precision itself
    precision: Precision
    plan: MemoryPlan

    @property
    def line(self) -> str:
        """What it is, what it costs and how to choose otherwise, on one line."""
        return (
            f"{self.profile}: {self.precision.label}; quality cost: {self.precision.quality} "
            f"(see {QUALITY_SECTION}); choose with --profile and --max-model-len"
        )

    def to_json(self) -> dict[str, Any]:
        """The plan's fields and the profile's name."""
        return {"profile": self.profile, **asdict(self.plan)}


def skip_reason(flags: EngineFlags, device: Device) -> str | None:
    """Why memory cannot be planned for this start; None where it can."""
    if device.kind == "mps":
        return "vllm-metal sizes the KV cache itself"
    if flags.tensor_parallel_size * flags.pipeline_parallel_size > 1:
        return "the plan covers one GPU, not a model spread over several"
    return None


def plan_candidates(
    config: ServeConfig, flags: EngineFlags, device: Device, model: Dimensions
) -> list[Candidate]:
    """A plan for each precision that may be taken, in the order in which they are tried.

    Args:
        config: our own settings.
        flags: vLLM's.
        device: what one engine has, see `Processes.engines_part`.
        model: its dimensions.

    Raises:
        UsageError: the profile does not allow the context, a flag for vLLM cannot be planned with, or the
            device has no kernels for any of the precisions.
    """
    max_model_len = _context_tokens(config, model)
    limits = engine_limits(flags, device, max_model_len, config.most_crops)
    budget_bytes = memory_budget(device, config.gpu_memory_utilization).bytes
    beside_bytes = Processes.of(flags).bytes_beside_engine(flags) if device.kind == "cpu" else 0
    found = []
    for profile, precision in _allowed(flags, device, precisions(config.profile, device)):
        plan = memory_plan(
            model,
            device_kind=device.kind,
            total_bytes=device.memory_bytes,
            budget_bytes=budget_bytes,
            weights=precision.weights,
            kv_dtype=precision.kv_dtype,
            max_model_len=max_model_len,
            limits=limits,
            context_limit=min(model.max_position, _profile_tokens(profile)),
            beside_bytes=beside_bytes,
            kv_cap_bytes=_kv_cap_bytes(flags, device, model, precision, max_model_len, limits),
        )
        _check_cache_size(plan, flags, device)
        found.append(Candidate(profile, precision, plan))
    if not found:
        raise UsageError(_no_kernels_message(config, flags, device))
    return found


def choose(candidates: Sequence[Candidate], device: Device) -> Candidate:
    """The first that fits.

    Raises:
        UsageError: none does; with the longest context of each in a table.
    """
    for candidate in candidates:
        if candidate.plan.fits:
            return candidate
    rows = [("profile", "weights", "KV cache", "longest context")]
    for candidate in candidates:
        plan = candidate.plan
        longest = f"{plan.longest_context:,}" if plan.longest_context else "does not load"
        rows.append((candidate.profile, plan.weights, plan.kv_dtype, longest))
    table = "\n".join(f"  {a:<10}{b:<16}{c:<22}{d:>15}" for a, b, c, d in rows)
    raise UsageError(f"{no_fit_message(candidates, device)}\n{table}")


def no_fit_message(candidates: Sequence[Candidate], device: Device) -> str:
    """Why none of these candidates can be served, and what could be."""
    best = max(candidate.plan.longest_context for candidate in candidates)
    plan = candidates[0].plan
    remedy = f"ask for less: --max-model-len {best} fits" if best else "it needs a device with more memory"
    held_gib = (device.memory_bytes - device.free_bytes) / GIB if device.free_bytes is not None else 0
    if device.kind == "cuda" and held_gib > 1:
        remedy += f", or end the programs that hold {held_gib:.1f} GiB of it"
    return (
        f"a context of {plan.max_model_len:,} tokens does not fit on {device.name} "
        f"({plan.budget_bytes / GIB:.1f} of {plan.total_bytes / GIB:.1f} GiB to use); {remedy}"
    )


def _no_kernels_message(config: ServeConfig, flags: EngineFlags, device: Device) -> str:
    given = {"--quantization": flags.quantization, "--kv-cache-dtype": flags.kv_cache_dtype}
    if "--dtype" in flags.names:
        given["--dtype"] = flags.dtype
    pairs = [f"{flag} {value}" for flag, value in given.items() if value]
    if not pairs:
        return f"nothing of --profile {config.profile} runs on {device.name}; choose another"
    return f"{' with '.join(pairs)} does not run on {device.name}: leave it out, or choose another --profile"


def _context_tokens(config: ServeConfig, model: Dimensions) -> int:
    """The context asked for; without a number, what the profile promises."""
    promised = min(_profile_tokens(config.profile), model.max_position)
    if config.max_model_len is None:
        return promised
    if config.max_model_len > promised:
        who = f"--profile {config.profile}" if config.profile in PROFILES else "the model"
        raise UsageError(f"--max-model-len {config.max_model_len}: {who} allows {promised} at most")
    return config.max_model_len


def _profile_tokens(profile: str) -> int:
    return PROFILES[profile].max_model_len if profile in PROFILES else PHI_3_5_VISION.max_model_len


def _allowed(
    flags: EngineFlags, device: Device, pairs: list[tuple[str, Precision]]
) -> list[tuple[str, Precision]]:
    """The pairs with what the user gave to vLLM in place of ours, each precision once."""
    weights, kv_dtype = flags.quantization, flags.kv_cache_dtype
    if weights is None and kv_dtype is None:
        return [(name, p) for name, p in pairs if p.takes_dtype(flags.dtype)]
    if weights is not None and weights not in WEIGHTS_BITS:
        known = ", ".join(name for name in WEIGHTS_BITS if name != "bf16")
        raise UsageError(f"--quantization {weights}: not known to the memory plan; known: {known}")
    kv_dtype = _KV_ALIASES.get(kv_dtype or "", kv_dtype)
    if kv_dtype is not None and kv_dtype not in KV_DTYPES:
        raise UsageError(
            f"--kv-cache-dtype {kv_dtype}: not known to the memory plan; known: {', '.join(KV_DTYPES)}"
        )
    given = [Precision(weights or p.weights, kv_dtype or p.kv_dtype) for _, p in pairs]
    given = [p for p in dict.fromkeys(given) if p.runs_on(device) and p.takes_dtype(flags.dtype)]
    return [("given", p) for p in given]


def _kv_cap_bytes(
    flags: EngineFlags,
    device: Device,
    model: Dimensions,
    precision: Precision,
    max_model_len: int,
    limits: EngineLimits,
) -> int | None:
    """The most that the KV cache may take, where that is not all that is left."""
    if device.kind != "cpu":
        return flags.kv_cache_memory_bytes
    if flags.kv_cache_memory_bytes is not None:
        raise UsageError("--kv-cache-memory-bytes: on a CPU set VLLM_CPU_KVCACHE_SPACE in whole GiB instead")
    if flags.cpu_kv_cache_gib is not None:
        return flags.cpu_kv_cache_gib * GIB
    block_tokens = BLOCK_TOKENS[device.kind]
    blocks = _CPU_FULL_REQUESTS * math.ceil(max_model_len / block_tokens) + 1
    need = blocks * block_tokens * kv_bytes_per_token(model, precision.kv_dtype, limits.element_bytes)
    return math.ceil(need / GIB) * GIB


def _check_cache_size(plan: MemoryPlan, flags: EngineFlags, device: Device) -> None:
    """Refuse a cache that the user set larger than what is free: the machine would swap."""
    size_gib = flags.cpu_kv_cache_gib if device.kind == "cpu" else None
    free_gib = plan.kv_available_bytes // GIB
    if size_gib is not None and free_gib < size_gib:
        raise UsageError(f"VLLM_CPU_KVCACHE_SPACE is {size_gib} GiB, but only {free_gib} are free for it")
