"""One card's starts, each resolved as far as vLLM goes without the card. A process for each card:

    python -m benchmarks.check_cuda.resolve a10 CHECKPOINT      # prints a JSON object for each start

A start's arguments are those of `phi-vision serve`. vLLM's parser reads them, `EngineArgs` makes the
engine's configuration, and the model is built with it of fake tensors (`fake_model.py`): so the choice of
attention kernels, KV dtype, quantization, runner and CUDA graphs is vLLM's own, and so is what it refuses.
The KV cache that vLLM lays out in the bytes that were planned must be the plan's. Then torch.compile traces
the model and takes it as far as the making of kernels (`trace.py`). Not seen: any kernel, neither made nor
run; values, so nothing of what quantization costs; the picture tower and the logits in motion.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from phi_vision.cli.main import parser
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import Device
from phi_vision.planning.installation import Installation
from phi_vision.planning.launch_plan import LaunchPlan, make_launch_plan
from phi_vision.planning.memory import MemoryPlan

from benchmarks.check_cuda.combinations import combinations
from benchmarks.check_cuda.fake_model import build_model, linear_kernel
from benchmarks.check_cuda.trace import traced

_CORES = 8  # of the card's machine


def launch_plan(flags: Sequence[str], device: Device, checkpoint: str) -> LaunchPlan:
    """What `phi-vision serve` would run with these flags on this card.

    Raises:
        UsageError: it is not offered.
    """
    options, rest = parser().parse_known_args(["serve", "--model", checkpoint, *flags])
    config = ServeConfig.from_flags(options, rest)
    given = EngineFlags.parse(config.vllm_args, os.environ)
    model, installation = find_checkpoint(config.model, None), Installation(flashinfer_can_sample=False)
    return make_launch_plan(config, given, device, model, installation, _CORES)


def engine_config(argv: Sequence[str]) -> Any:
    """vLLM's configuration of the engine for these arguments of `vllm serve`."""
    from phi_vision.serving.launch import pin_grammar_backend
    from phi_vision.serving.vllm_compat.flag_parser import vllm_parser
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    args = vllm_parser().parse_args(list(argv))
    pin_grammar_backend(args.structured_outputs_config)
    args.model = args.model_tag
    return AsyncEngineArgs.from_cli_args(args).create_engine_config(UsageContext.OPENAI_API_SERVER)


def kv_cache(config: Any, available_bytes: int) -> tuple[int, Any, Any]:
    """Blocks of the KV cache, and the attention backend and cache of a layer, which are all alike.

    As vLLM's engine core does at the start.

    Raises:
        ValueError: a sequence of full length does not fit.
    """
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
    from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
    from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

    specs = get_kv_cache_spec(config)
    layers = config.compilation_config.static_forward_context
    (backend,) = {layers[name].get_attn_backend() for name in specs}
    layouts = [layout.name for layout in get_supported_kv_cache_layouts([backend])]
    resolve_kv_cache_layout(config, [layouts], specs.values())
    (cache,) = get_kv_cache_configs(config, [specs], [available_bytes])
    return cache.num_blocks, backend, next(iter(specs.values()))


def resolve(flags: Sequence[str], device: Device, checkpoint: str) -> dict[str, Any]:
    """What vLLM makes of a start; `error` has its own words where it refuses."""
    row: dict[str, Any] = {"flags": list(flags)}
    try:
        launch = launch_plan(flags, device, checkpoint)
    except UsageError as error:
        return row | {"not_offered": str(error).splitlines()[0]}
    assert launch.memory is not None
    plan = launch.memory.plan
    row |= {"weights": plan.weights, "kv_dtype": plan.kv_dtype, "max_model_len": plan.max_model_len}
    try:
        return row | _decisions(engine_config(launch.argv), plan)
    except Exception as error:  # whatever it is, the start would end with it
        return row | {"error": f"{type(error).__name__}: {error}"}


def _decisions(config: Any, plan: MemoryPlan) -> dict[str, Any]:
    model = build_model(config)
    blocks, backend, spec = kv_cache(config, plan.kv_available_bytes)
    scheduler = config.scheduler_config
    planned = {
        "max_model_len": (plan.max_model_len, config.model_config.max_model_len),
        "max_num_seqs": (plan.max_num_seqs, scheduler.max_num_seqs),
        "max_num_batched_tokens": (plan.max_num_batched_tokens, scheduler.max_num_batched_tokens),
        "block_tokens": (plan.block_tokens, config.cache_config.block_size),
        "kv_blocks": (plan.kv_blocks, blocks),
    }
    off = [f"{name} {ours}, vLLM has {theirs}" for name, (ours, theirs) in planned.items() if ours != theirs]
    if off:
        raise ValueError(f"planned: {'; '.join(off)}")
    return {
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "attention": backend.get_name(),
        "vision_attention": _vision_attention(model),
        "linear": linear_kernel(model),
        "kv_dtype_of_vllm": config.cache_config.cache_dtype,
        "runner": "V2" if config.use_v2_model_runner else "V1",
        "cuda_graphs": _cuda_graphs(config, backend, spec),
        "prefix_caching": config.cache_config.enable_prefix_caching,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": scheduler.async_scheduling,
        "traced": traced(model, config),  # the last: it cuts the model
    }


def _vision_attention(model: Any) -> str:
    from vllm.model_executor.layers.attention import MMEncoderAttention

    (name,) = {m.attn_backend.name for m in model.modules() if isinstance(m, MMEncoderAttention)}
    return name


def _cuda_graphs(config: Any, backend: Any, spec: Any) -> str:
    """The mode that the runner takes, by what the attention kernels can."""
    support = backend.get_builder_cls().get_cudagraph_support(config, spec)
    mode = config.compilation_config.resolve_cudagraph_mode_and_sizes(
        support, backend.get_name(), use_v2_model_runner=config.use_v2_model_runner
    )
    return mode.name


def main() -> None:
    """Print a row of JSON for each start on the card."""
    card, checkpoint = sys.argv[1:]
    device = named_gpu(card)
    smallest = launch_plan(("--profile", "faithful"), device, checkpoint)
    os.environ.update(smallest.env)  # the same for all; vLLM reads it when it is imported
    from phi_vision.serving.launch import check_plugins

    check_plugins()
    for flags in combinations(device):
        print(json.dumps(resolve(flags, device, checkpoint)), flush=True)


if __name__ == "__main__":
    main()
