"""All that a start decides, as one value: vLLM's command line, its environment, the memory plan. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from phi_vision import plugin_names
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning import toolchain
from phi_vision.planning.budget import memory_budget
from phi_vision.planning.checkpoint import Checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.front_end import FrontEnd, plan_front_end
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.installation import Installation
from phi_vision.planning.planner import Candidate, choose, plan_candidates, skip_reason
from phi_vision.planning.processes import CORES_VARIABLE, Processes
from phi_vision.planning.profiles import PUBLISHED
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks.presets import model_names

_MAX_CHOICES = 16  # `n` of one request; each is a sequence of its own in the KV cache

_COMPILES = "--no-enforce-eager"
_FEW_CORES = 4  # where a short spin is taken; measured on two, and with many waking threads may cost more
SPINS = 10_000  # about 0.1 ms; GNU's OpenMP has thirty times as many by default
_ROPE_SCHEDULER = "phi_vision.model.rope_scheduler.scheduler"
_ROPE_CONFLICTS = ("--scheduler-cls", "--kv-transfer-config", "--kv-offloading-size")

# With these vLLM downloads the model itself: it keeps it elsewhere, or does not need all of it.
_OTHER_DOWNLOADS = {
    "--download-dir",
    "--load-format",
    "--tokenizer-revision",
    "--code-revision",
    "--hf-token",
}
# With these the server listens elsewhere, or with TLS.
_OTHER_PORTS = {
    *("--uds", "--grpc", "--headless", "--ssl-keyfile", "--ssl-certfile"),
}

Flag = tuple[str, ...]  # its name and its values


@dataclass(frozen=True)
class LaunchPlan:
    """What will run.

    Args:
        argv: of `vllm serve`, the model first. A flag that the user gave stands as they gave it, not as ours.
            API keys and limits are not there: they go to vLLM in its parsed arguments.
        env: variables to set before vLLM is imported.
        memory: the precision and its memory plan; None where memory is not planned.
        front_end: its processes; None where they are elsewhere.
        summary: for people, a table.
        hub_id: whose files are to be downloaded first, at `revision`; None where vLLM can start at once, or
            is to download them itself.
        revision: a branch, tag or commit; None for the main branch.
        is_plain_http: whether the server speaks HTTP, without TLS, on the port that the launcher holds.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    memory: Candidate | None
    front_end: FrontEnd | None
    summary: str
    hub_id: str | None = None
    revision: str | None = None
    is_plain_http: bool = True

    def with_weights(self, folder: Path) -> LaunchPlan:
        """The same, with the model from this folder."""
        return replace(self, argv=(str(folder), *self.argv[1:]))


def make_launch_plan(
    config: ServeConfig,
    flags: EngineFlags,
    device: Device,
    checkpoint: Checkpoint,
    installation: Installation,
    cores: int,
    *,
    keyed: bool = False,
) -> LaunchPlan:
    """Plan a start.

    Args:
        config: our own settings.
        flags: vLLM's, and its environment.
        device: to serve on.
        checkpoint: to serve.
        installation: what is installed beside the engine.
        cores: of the machine.
        keyed: whether clients need an API key.

    Raises:
        UsageError: nothing that was asked for fits, or settings exclude one another.
    """
    flags = flags.for_device(device)
    processes = Processes.of(flags)
    bound = processes.cores(flags, device)
    reason = skip_reason(flags, device)
    if reason and config.profile != "auto":
        raise UsageError(f"--profile {config.profile} needs a memory plan, but {reason}")
    part = processes.engines_part(device)
    memory = None if reason else choose(plan_candidates(config, flags, part, checkpoint.dimensions), part)
    if memory is not None:
        config = replace(config, max_model_len=memory.plan.max_model_len)
    model, plan = checkpoint.dimensions, memory.plan if memory else None
    front_end = plan_front_end(config, flags, device, cores, model, plan)
    ours = [
        *_server_flags(config, device, served_names(checkpoint)),
        *_rope_flags(config, flags),
        *engine_flags(config, flags, device, memory),
        *_front_end_flags(front_end, flags),
    ]
    env = _environment(flags, device, installation, memory, bound, cores)
    return LaunchPlan(
        argv=(checkpoint.path, *_flat(ours, flags), *flags.argv),
        env=env,
        memory=memory,
        front_end=front_end,
        hub_id=None if checkpoint.is_folder or flags.names & _OTHER_DOWNLOADS else checkpoint.path,
        revision=flags.revision,
        is_plain_http=not flags.names & _OTHER_PORTS,
        summary=_summary(
            checkpoint,
            {
                "device": _device_row(device),
                "engines": processes.engines_row(bound),
                "dtype": _dtype_row(flags),
                "attention": flags.attention_backend or _attention_backend(flags, device, memory),
                "context": f"{config.context} tokens",
                "memory": memory.line if memory else reason,
                "front end": front_end.line if front_end else None,
                "rope mode": _rope_row(config),
                "crops": f"{config.num_crops} for one picture, {config.num_crops_multi} for each of several, "
                f"{config.crops}",
                "served as": ", ".join(served_names(checkpoint)),
                "listening": f"http://{config.host}:{config.port or '<a free port>'}/v1",
                "page": None if config.no_page else f"http://{config.host}:{config.port or '<a free port>'}/",
                "access": "with a key" if keyed else "open to all who reach it",
                "sampler": _sampler_row(flags, device, env),
            },
        ),
    )


def served_names(checkpoint: Checkpoint) -> list[str]:
    """All names of the model; vLLM puts the first into every response."""
    return [name for base in (checkpoint.name, *checkpoint.aliases) for name in model_names(base)]


def engine_flags(
    config: ServeConfig, flags: EngineFlags, device: Device, memory: Candidate | None
) -> list[Flag]:
    """The flags of `vllm serve` that make the memory plan come true; `config` has the plan's context."""
    engine: list[Flag] = [
        ("--max-model-len", str(config.context)),
        ("--disable-sliding-window",),  # wider than the context, but it would spoil prefix caching
    ]
    if device.kind == "cuda":
        utilization = memory_budget(device, config.gpu_memory_utilization).memory_utilization
        engine.append(("--attention-backend", _attention_backend(flags, device, memory)))
        engine.append(("--gpu-memory-utilization", str(utilization)))
    if device.kind == "cpu":
        if flags.dtype is not None:
            engine.append(("--dtype", flags.dtype))
        engine.append(("--mm-processor-cache-gb", f"{Processes.of(flags).picture_cache_gib(flags):g}"))
        if _COMPILES not in flags.names:
            engine.append(("--enforce-eager",))  # compiling takes minutes and gains little on a CPU
    if memory is None:
        return engine
    precision, plan = memory.precision, memory.plan
    engine.append(("--max-num-seqs", str(plan.max_num_seqs)))
    engine.append(("--max-num-batched-tokens", str(plan.max_num_batched_tokens)))
    if precision.kv_dtype != "bf16":
        engine.append(("--kv-cache-dtype", precision.kv_dtype))
    if precision.weights != "bf16":
        # `re:` because plain names no longer match once vLLM has renamed the modules.
        ignored = {"ignore": ["re:.*vision_embed_tokens.*"]}
        engine.append(("--quantization", precision.weights))
        engine.append(("--quantization-config", json.dumps(ignored)))
    return engine


def _front_end_flags(front_end: FrontEnd | None, flags: EngineFlags) -> list[Flag]:
    """How many API processes, where vLLM itself would start another number."""
    if front_end is None or front_end.api_processes == flags.data_parallel_size:
        return []
    return [("--api-server-count", str(front_end.api_processes))]


def engine_environment(device: Device, memory: Candidate | None) -> dict[str, str]:
    """What vLLM reads of the plan from the environment: on a CPU the cache's size in whole GiB."""
    if device.kind != "cpu" or memory is None:
        return {}
    return {"VLLM_CPU_KVCACHE_SPACE": str(memory.plan.kv_available_bytes // GIB)}


def _server_flags(config: ServeConfig, device: Device, names: list[str]) -> list[Flag]:
    """What does not depend on the memory plan."""
    return [
        ("--host", config.host),
        ("--port", str(config.port)),
        ("--served-model-name", *names),
        ("--mm-processor-kwargs", json.dumps(vars(config.crop_policy))),
        ("--limit-mm-per-prompt", json.dumps({"image": config.limits.images_per_prompt})),
        # Threads that tokenise: the text of a whole context takes seconds, in which others must not wait.
        ("--renderer-num-workers", "4"),
        ("--interleave-mm-strings",),  # pictures stay where they stand between texts
        ("--chat-template", str(PHI_3_5_VISION.chat_template)),
        ("--chat-template-content-format", "string"),
        ("--shutdown-timeout", str(config.shutdown_timeout)),
        ("--allowed-origins", json.dumps(config.origins)),
        # Balancers and the web page ask for these every few seconds.
        ("--disable-access-log-for-endpoints", "/livez,/readyz,/v1/queue"),
        # As the model card has it, whatever the checkpoint's generation_config.json says.
        ("--override-generation-config.temperature", "0.0"),
    ]


def _rope_flags(config: ServeConfig, flags: EngineFlags) -> list[Flag]:
    """How LongRoPE's factors are chosen.

    Raises:
        UsageError: flags of vLLM's that take away what `--rope per-request` works with.
    """
    chosen: list[Flag] = [("--hf-overrides.longrope_per_request", json.dumps(config.chooses_rope))]
    if not config.chooses_rope:
        return chosen
    for flag in _ROPE_CONFLICTS:
        if flag in flags.names:
            raise UsageError(f"{flag} does not go with --rope per-request: add --rope long")
    return [*chosen, ("--scheduler-cls", _ROPE_SCHEDULER)]


def _flat(ours: list[Flag], flags: EngineFlags) -> list[str]:
    """Our flags as words, without those that the user gave."""
    return [word for flag in ours if flag[0] not in flags.names for word in flag]


def _attention_backend(flags: EngineFlags, device: Device, memory: Candidate | None) -> str:
    precision = memory.precision if memory else PUBLISHED
    return precision.attention_backend(device, is_float32=flags.is_float32)


def _environment(
    flags: EngineFlags,
    device: Device,
    installation: Installation,
    memory: Candidate | None,
    bound_cores: str | None,
    cores: int,
) -> dict[str, str]:
    """What vLLM and our plugins read from the environment, where the user has not set it."""
    plugins = installation.plugins if flags.plugins is None else flags.plugins
    ours = (plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN)
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MAX_N_SEQUENCES": str(_MAX_CHOICES),
    }
    if device.kind == "cpu":
        # vLLM keeps one core back, worth 1.2 to 1.5 times the requests where nothing else needs it.
        defaults["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
        if cores <= _FEW_CORES and "OMP_WAIT_POLICY" not in flags.variables:
            # Threads that spin while they wait for one another take the cores from the API and the scheduler;
            # those that sleep at once must be woken for each operation (`benchmarks/studies/cpu_cores.py`).
            defaults["GOMP_SPINCOUNT"] = str(SPINS)
        if _COMPILES not in flags.names:
            # Eager mode leaves one function compiled: the first request for logprobs, which reading a page
            # is, would hold up the engine for 7 to 30 s.
            defaults["TORCHDYNAMO_DISABLE"] = "1"
    if bound_cores is not None:
        defaults[CORES_VARIABLE] = bound_cores
    if device.kind == "cuda" and not installation.flashinfer_can_sample:
        defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    return {
        "VLLM_PLUGINS": ",".join(dict.fromkeys((*plugins, *ours))),
        "VLLM_MEDIA_CONNECTOR": plugin_names.MEDIA_CONNECTOR,
        **engine_environment(device, memory),
        **{name: value for name, value in defaults.items() if name not in flags.variables},
    }


def _summary(checkpoint: Checkpoint, rows: dict[str, str | None]) -> str:
    model: dict[str, str | None] = {"model": f"{checkpoint.name} ({checkpoint.path})"}
    table = [f"  {name:<10} {value}" for name, value in (model | rows).items() if value]
    return "\n".join(filter(None, ["phi-vision", *table, checkpoint.banner]))


def _device_row(device: Device) -> str:
    free = f", {device.free_bytes / GIB:.1f} free" if device.free_bytes is not None else ""
    return f"{device.kind}: {device.name}, {device.memory_bytes / GIB:.1f} GiB{free}"


def _dtype_row(flags: EngineFlags) -> str | None:
    if flags.dtype is None or "--dtype" in flags.names:
        return flags.dtype
    return f"{flags.dtype}: this processor is many times slower in bfloat16, which --dtype bfloat16 chooses"


def _rope_row(config: ServeConfig) -> str:
    window = PHI_3_5_VISION.short_window
    if config.chooses_rope:
        return f"per request: short factors up to {window} tokens, long beyond, as the original's"
    if config.context > window:
        return "long factors for every request"
    return "short factors for every request, as the original's"


def _sampler_row(flags: EngineFlags, device: Device, env: Mapping[str, str]) -> str | None:
    chosen_here = env.get("VLLM_USE_FLASHINFER_SAMPLER") == "0"
    if device.kind != "cuda" or not (chosen_here or flags.use_flashinfer_sampler is False):
        return None
    return f"vLLM's own; FlashInfer's needs {toolchain.FLASHINFER_NEEDS}"
