"""From what was asked for and what the device has to the setting that is served, or to a clear no."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.model.dimensions import read_config_json
from phi_vision.planning.engine_flags import cpu_kv_cache_gib, given, given_count, given_gib
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.memory import (
    BF16_BYTES,
    BLOCK_TOKENS,
    CUDA_CONTEXT_BYTES,
    FLOAT32_BYTES,
    KV_DTYPES,
    WEIGHTS_BITS,
    EngineLimits,
    MemoryPlan,
    kv_bytes_per_token,
    memory_plan,
)
from phi_vision.planning.profiles import PROFILES, QUALITY_SECTION, Setting, candidates
from phi_vision.spec import PHI_3_5_VISION, Dimensions

# A CPU's memory is not the server's alone: the cache holds this many requests of full length, no more.
_CPU_FULL_REQUESTS = 4

# vLLM keeps processed pictures in RAM, up to 4 GiB by default: too much where the model is there too.
_CPU_PICTURE_CACHE_GIB = 1.0

# vLLM's own names of KV dtypes that are the same to us.
_KV_ALIASES = {"auto": "bf16", "bfloat16": "bf16", "fp8": "fp8_e4m3"}

# With one of these the model is spread over several GPUs, which is not planned here.
_SPLITTING_FLAGS = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")


@dataclass(frozen=True)
class Option:
    """A setting of a profile with its plan on the device."""

    profile: str
    setting: Setting
    plan: MemoryPlan

    def to_json(self) -> dict[str, Any]:
        """The plan's fields and the profile's name."""
        return {"profile": self.profile, **asdict(self.plan)}


def dimensions_of(path: str) -> Dimensions:
    """The dimensions of the checkpoint at `path`, a folder or a hub id.

    Raises:
        UsageError: its config.json cannot be had or is not of this architecture.
    """
    if path == PHI_3_5_VISION.hub_id:
        return PHI_3_5_VISION.dimensions
    folder = Path(path).expanduser()
    try:
        if not folder.is_dir():
            from huggingface_hub import hf_hub_download

            folder = Path(hf_hub_download(path, "config.json")).parent
        return read_config_json(folder)
    except Exception as error:  # the hub's errors share no base
        raise UsageError(f"--model {path}: no config.json of a Phi-3-vision model there: {error}") from error


def unplanned(config: ServeConfig, device: Device) -> str | None:
    """Why this start cannot be planned, if it cannot."""
    if device.kind == "mps":
        return "vllm-metal sizes the KV cache itself"
    if any(given(config.vllm_args, flag) not in (None, "1") for flag in _SPLITTING_FLAGS):
        return "the plan covers one GPU, not a model spread over several"
    return None


def options(config: ServeConfig, device: Device, model: Dimensions) -> list[Option]:
    """A plan for each setting that may be taken, in the order in which they are tried.

    Raises:
        UsageError: the profile does not allow the context, a flag for vLLM is not plannable, or the
            device has no kernels for any of the settings.
    """
    wanted = _wanted_tokens(config, model)
    limits = engine_limits(config, device, wanted)
    pairs = _restricted(config, device, candidates(config.profile, device))
    found = []
    for profile, setting in pairs:
        plan = memory_plan(
            model,
            device_kind=device.kind,
            total_bytes=device.memory_bytes,
            budget_bytes=budget_bytes(config, device),
            weights=setting.weights,
            kv_dtype=setting.kv_dtype,
            max_model_len=wanted,
            limits=limits,
            context_limit=min(model.max_position, _promised_tokens(profile)),
            picture_cache_bytes=round(_picture_cache_gib(config) * GIB) if device.kind == "cpu" else 0,
            kv_cap_bytes=_kv_cap_bytes(config, device, model, setting, wanted, limits),
        )
        _check_space(plan, device)
        found.append(Option(profile, setting, plan))
    if not found:
        raise UsageError(f"nothing of what was asked for runs on {device.name}; choose another --profile")
    return found


def choose(found: Sequence[Option], device: Device) -> Option:
    """The first option that fits.

    Raises:
        UsageError: none does; with the longest context of each in a table.
    """
    for option in found:
        if option.plan.fits:
            return option
    rows = [("profile", "weights", "KV cache", "longest context")]
    for option in found:
        longest = option.plan.longest_context
        shown = f"{longest:,}" if longest else "does not load"
        rows.append((option.profile, option.setting.weights, option.setting.kv_dtype, shown))
    table = "\n".join(f"  {a:<10}{b:<16}{c:<22}{d:>15}" for a, b, c, d in rows)
    raise UsageError(f"{refusal(found, device)}\n{table}")


def refusal(found: Sequence[Option], device: Device) -> str:
    """Why none of these options can be served, and what could be."""
    best = max(option.plan.longest_context for option in found)
    plan = found[0].plan
    remedy = f"ask for less: --max-model-len {best} fits" if best else "it needs a device with more memory"
    held_gib = (device.memory_bytes - device.free_bytes) / GIB if device.free_bytes is not None else 0
    if device.kind == "cuda" and held_gib > 1:
        remedy += f", or end the programs that hold {held_gib:.1f} GiB of it"
    return (
        f"a context of {plan.max_model_len:,} tokens does not fit on {device.name} "
        f"({plan.budget_bytes / GIB:.1f} of {plan.total_bytes / GIB:.1f} GiB to use); {remedy}"
    )


def budget_bytes(config: ServeConfig, device: Device) -> int:
    """The server's share of the memory, and no more than is free now."""
    return min(_share_bytes(config, device), _free_bytes(device))


def is_held_back(config: ServeConfig, device: Device) -> bool:
    """Whether other programs hold so much that less than the server's share is free."""
    return _free_bytes(device) < _share_bytes(config, device)


def memory_utilization(config: ServeConfig, device: Device) -> float:
    """vLLM's `--gpu-memory-utilization`: it does not start with a share that is larger than what is free."""
    if not is_held_back(config, device):
        return config.gpu_memory_utilization
    return math.floor(1000 * _free_bytes(device) / device.memory_bytes) / 1000


def _share_bytes(config: ServeConfig, device: Device) -> int:
    return math.ceil(device.memory_bytes * config.gpu_memory_utilization)


def _free_bytes(device: Device) -> int:
    """What a server could have now, on a GPU beside its CUDA context and what vLLM does not profile."""
    if device.free_bytes is None:
        return device.memory_bytes
    return max(0, device.free_bytes - (2 * CUDA_CONTEXT_BYTES if device.kind == "cuda" else 0))


def attention_backend(config: ServeConfig, device: Device, setting: Setting | None = None) -> str:
    """The attention kernels to ask vLLM for; FlashAttention has none for float32."""
    backend = setting.attention_backend(device) if setting else device.attention_backend
    wide = _element_bytes(config) == FLOAT32_BYTES
    return "TRITON_ATTN" if backend == "FLASH_ATTN" and wide else backend


def engine_limits(config: ServeConfig, device: Device, max_model_len: int) -> EngineLimits:
    """What the user gave of vLLM's limits, else vLLM's defaults (`EngineArgs.get_batch_defaults`)."""
    if device.kind == "cpu":
        tokens, seqs = 2048, 128
    elif device.memory_bytes >= 160 * GIB:
        tokens, seqs = 16384, 1024
    elif device.memory_bytes >= 70 * GIB and "a100" not in device.name.lower():
        tokens, seqs = 8192, 1024
    else:
        tokens, seqs = 2048, 256
    seqs = given_count(config.vllm_args, "--max-num-seqs") or seqs
    tokens = given_count(config.vllm_args, "--max-num-batched-tokens") or min(tokens, seqs * max_model_len)
    return EngineLimits(min(seqs, tokens), tokens, config.most_crops, _element_bytes(config))


def _element_bytes(config: ServeConfig) -> int:
    wide = given(config.vllm_args, "--dtype") in ("float32", "float")
    return FLOAT32_BYTES if wide else BF16_BYTES


def engine_arguments(option: Option | None, config: ServeConfig, device: Device) -> list[str]:
    """The flags of `vllm serve` that make the plan come true; `config` has the plan's context."""
    arguments = [
        *("--max-model-len", str(config.context)),
        "--disable-sliding-window",  # wider than the context, but it would spoil prefix caching
    ]
    if device.kind == "cuda":
        backend = attention_backend(config, device, option.setting if option else None)
        arguments += ["--attention-backend", backend]
        arguments += ["--gpu-memory-utilization", str(memory_utilization(config, device))]
    if device.kind == "cpu":
        arguments += ["--mm-processor-cache-gb", f"{_picture_cache_gib(config):g}"]
    if option is None:
        return arguments
    setting, plan = option.setting, option.plan
    arguments += ["--max-num-seqs", str(plan.max_num_seqs)]
    arguments += ["--max-num-batched-tokens", str(plan.max_num_batched_tokens)]
    if setting.kv_dtype != "bf16":
        arguments += ["--kv-cache-dtype", setting.kv_dtype]
    if setting.weights != "bf16":
        # `re:` because plain names no longer match once vLLM has renamed the modules.
        ignored = {"ignore": ["re:.*vision_embed_tokens.*"]}
        arguments += ["--quantization", setting.weights, "--quantization-config", json.dumps(ignored)]
    return arguments


def engine_environment(option: Option, device: Device) -> dict[str, str]:
    """What vLLM reads of the plan from the environment: on a CPU the cache's size in whole GiB."""
    if device.kind != "cpu":
        return {}
    return {"VLLM_CPU_KVCACHE_SPACE": str(option.plan.kv_available_bytes // GIB)}


def chosen_line(option: Option) -> str:
    """What was chosen, what it costs and how to choose otherwise, on one line."""
    return (
        f"{option.profile}: {option.setting.label}; quality cost: {option.setting.quality} "
        f"(see {QUALITY_SECTION}); choose with --profile and --max-model-len"
    )


def _wanted_tokens(config: ServeConfig, model: Dimensions) -> int:
    """The context asked for; without a number, what the profile promises."""
    promised = min(_promised_tokens(config.profile), model.max_position)
    if config.max_model_len is None:
        return promised
    if config.max_model_len > promised:
        who = f"--profile {config.profile}" if config.profile in PROFILES else "the model"
        raise UsageError(f"--max-model-len {config.max_model_len}: {who} allows {promised} at most")
    return config.max_model_len


def _promised_tokens(profile: str) -> int:
    return PROFILES[profile].max_model_len if profile in PROFILES else PHI_3_5_VISION.max_model_len


def _restricted(
    config: ServeConfig, device: Device, pairs: list[tuple[str, Setting]]
) -> list[tuple[str, Setting]]:
    """The pairs with what the user gave to vLLM in place of ours, each setting once."""
    weights = given(config.vllm_args, "--quantization", "-q")
    kv_dtype = given(config.vllm_args, "--kv-cache-dtype")
    if weights is None and kv_dtype is None:
        return pairs
    if weights is not None and weights not in WEIGHTS_BITS:
        known = ", ".join(name for name in WEIGHTS_BITS if name != "bf16")
        raise UsageError(f"--quantization {weights}: not known to the memory plan; known: {known}")
    kv_dtype = _KV_ALIASES.get(kv_dtype or "", kv_dtype)
    if kv_dtype is not None and kv_dtype not in KV_DTYPES:
        raise UsageError(
            f"--kv-cache-dtype {kv_dtype}: not known to the memory plan; known: {', '.join(KV_DTYPES)}"
        )
    settings = [Setting(weights or s.weights, kv_dtype or s.kv_dtype) for _, s in pairs]
    return [("given", s) for s in dict.fromkeys(settings) if s.runs_on(device)]


def _kv_cap_bytes(
    config: ServeConfig,
    device: Device,
    model: Dimensions,
    setting: Setting,
    max_model_len: int,
    limits: EngineLimits,
) -> int | None:
    """The most that the KV cache may take, where that is not all that is left."""
    asked = given_count(config.vllm_args, "--kv-cache-memory-bytes")
    if device.kind != "cpu":
        return asked
    if asked is not None:
        raise UsageError("--kv-cache-memory-bytes: on a CPU set VLLM_CPU_KVCACHE_SPACE in whole GiB instead")
    space_gib = cpu_kv_cache_gib()
    if space_gib is not None:
        return space_gib * GIB
    block_tokens = BLOCK_TOKENS[device.kind]
    blocks = _CPU_FULL_REQUESTS * math.ceil(max_model_len / block_tokens) + 1
    need = blocks * block_tokens * kv_bytes_per_token(model, setting.kv_dtype, limits.element_bytes)
    return math.ceil(need / GIB) * GIB


def _picture_cache_gib(config: ServeConfig) -> float:
    asked = given_gib(config.vllm_args, "--mm-processor-cache-gb")
    return _CPU_PICTURE_CACHE_GIB if asked is None else asked


def _check_space(plan: MemoryPlan, device: Device) -> None:
    """Refuse a cache that the user set larger than what is free: the machine would swap."""
    space_gib = cpu_kv_cache_gib() if device.kind == "cpu" else None
    free_gib = plan.kv_available_bytes // GIB
    if space_gib is not None and free_gib < space_gib:
        raise UsageError(f"VLLM_CPU_KVCACHE_SPACE is {space_gib} GiB, but only {free_gib} are free for it")
