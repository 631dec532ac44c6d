"""The plan's arithmetic against worked examples, the demo's real weights and vLLM's own functions."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from phi_vision.model.dimensions import read_config_json, read_dimensions
from phi_vision.planning.memory import (
    GIB,
    EngineLimits,
    MemoryPlan,
    activations_bytes,
    kv_bytes_per_token,
    memory_plan,
    text_weights_bytes,
)
from phi_vision.spec import PHI_3_5_VISION

MODEL = PHI_3_5_VISION.dimensions
LIMITS = EngineLimits(max_num_seqs=256, max_num_batched_tokens=2048, num_crops=16)
REST_GIB = 1.3  # of the worked examples: activations and runtime together


def a_plan(**changes: Any) -> MemoryPlan:
    """bf16 on an A10, with `changes`."""
    given: dict[str, Any] = {
        "device_kind": "cuda",
        "total_bytes": round(22.1 * GIB),
        "budget_bytes": round(22.1 * 0.92 * GIB),
        "weights": "bf16",
        "kv_dtype": "bf16",
        "max_model_len": 131072,
        "limits": LIMITS,
        "context_limit": 131072,
    }
    return memory_plan(MODEL, **(given | changes))


@pytest.mark.parametrize(
    ("kv_dtype", "kib"),
    [("bf16", 384), ("fp8_e4m3", 192), ("int8_per_token_head", 200), ("int4_per_token_head", 104)],
)
def test_kv_of_one_token(kv_dtype: str, kib: int) -> None:
    assert kv_bytes_per_token(MODEL, kv_dtype) == kib * 1024


def test_the_whole_context_in_bf16_is_48_gib() -> None:
    assert 131072 * kv_bytes_per_token(MODEL, "bf16") == 48 * GIB


@pytest.mark.parametrize(("weights", "gib"), [("bf16", 7.70), ("fp8_per_block", 4.75), ("mxfp4", 2.81)])
def test_weights_with_the_tower_in_bf16(weights: str, gib: float) -> None:
    """Against what vLLM's loader says it holds ("Model loading took") on a card of compute capability 8.6."""
    total = text_weights_bytes(MODEL, weights) + 2 * MODEL.vision_params
    assert total / GIB == pytest.approx(gib, abs=0.05)


@pytest.mark.parametrize(
    ("utilization", "weights_gib", "kv_dtype", "longest"),
    [
        (0.92, 7.70, "bf16", 30.9e3),
        (0.95, 7.70, "bf16", 32.7e3),
        (0.92, 7.70, "int8_per_token_head", 59.4e3),
        (0.95, 7.70, "int8_per_token_head", 62.9e3),
        (0.92, 7.70, "int4_per_token_head", 114e3),
        (0.95, 7.70, "int4_per_token_head", 121e3),
        (0.92, 4.32, "bf16", 40.2e3),
        (0.95, 4.32, "bf16", 42.0e3),
        (0.92, 4.32, "int8_per_token_head", 77.1e3),
        (0.95, 4.32, "int8_per_token_head", 80.6e3),
        (0.92, 4.32, "int4_per_token_head", 131072),
        (0.92, 2.7, "bf16", 44.5e3),
        (0.95, 2.7, "bf16", 46.3e3),
        (0.92, 2.7, "int8_per_token_head", 85e3),
        (0.95, 2.7, "int8_per_token_head", 89e3),
        (0.92, 2.7, "int4_per_token_head", 131072),
    ],
)
def test_longest_sequence_on_an_a10(
    utilization: float, weights_gib: float, kv_dtype: str, longest: float
) -> None:
    """Sixteen lengths worked out by hand from 22.1 GiB, these weights and REST_GIB for all else."""
    # The plan's own weights and rest are taken off its budget: give it back what they differ by.
    ours = a_plan(kv_dtype=kv_dtype)
    fixed = ours.budget_bytes - ours.kv_available_bytes
    budget = 22.1 * utilization * GIB - (weights_gib + REST_GIB) * GIB + fixed
    plan = a_plan(kv_dtype=kv_dtype, budget_bytes=round(budget))
    assert plan.longest_context == pytest.approx(longest, rel=0.01)  # they are cut to two or three digits


def test_all_terms_add_up_and_the_rest_is_near_the_worked_examples() -> None:
    plan = a_plan()
    weights = plan.text_weights_bytes + plan.vision_weights_bytes
    rest = plan.activations_bytes + plan.runtime_bytes
    assert weights + rest + plan.kv_available_bytes == plan.budget_bytes
    assert rest / GIB == pytest.approx(REST_GIB, abs=0.1)


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8_per_token_head", "int4_per_token_head"])
@pytest.mark.parametrize("gib", [0.002, 0.5, 3.0, 11.123456, 14.7, 47.9, 48.0, 48.01, 70.0])
def test_longest_context_is_vllms_estimate(kv_dtype: str, gib: float) -> None:
    """vLLM's own specs and `estimate_max_model_len`, on the memory that vLLM gives to it."""
    import torch
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
    from vllm.v1.core.kv_cache_utils import estimate_max_model_len
    from vllm.v1.kv_cache_interface import FullAttentionSpec, get_kv_quant_mode

    storage = {"bf16": torch.bfloat16, "int8_per_token_head": torch.int8, "int4_per_token_head": torch.uint8}
    spec = TritonAttentionBackend.customize_spec(
        FullAttentionSpec(
            block_size=16,
            num_kv_heads=32,
            head_size=96,
            dtype=storage[kv_dtype],
            kv_quant_mode=get_kv_quant_mode(kv_dtype),
        )
    )
    specs = {f"layers.{i}": spec for i in range(32)}
    vllm_config: Any = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=131072),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
    )
    available = round(gib * GIB)
    fixed = a_plan(budget_bytes=100 * GIB).kv_available_bytes
    plan = a_plan(kv_dtype=kv_dtype, budget_bytes=100 * GIB - fixed + available)
    assert plan.kv_available_bytes == available
    null_block = 32 * spec.page_size_bytes
    assert plan.kv_bytes_per_token * plan.block_tokens == null_block
    assert plan.longest_context == estimate_max_model_len(vllm_config, specs, available - null_block)
    assert plan.kv_blocks == available // null_block


def test_one_block_less_than_needed_does_not_fit() -> None:
    block = 16 * kv_bytes_per_token(MODEL, "bf16")
    fixed = 100 * GIB - a_plan(budget_bytes=100 * GIB).kv_available_bytes
    enough = a_plan(max_model_len=4096, budget_bytes=fixed + 257 * block)
    assert enough.fits and enough.longest_context == 4096 and enough.kv_tokens == 4112
    short = a_plan(max_model_len=4096, budget_bytes=fixed + 257 * block - 1)
    assert not short.fits and short.longest_context == 4080
    assert short.reasons == ("4,096 tokens asked for, 4,080 fit",)


def test_too_small_for_the_weights_is_zero_not_negative() -> None:
    plan = a_plan(budget_bytes=4 * GIB)
    assert (plan.kv_available_bytes, plan.longest_context, plan.pictures_at_once) == (0, 0, 0)
    assert not plan.fits


def test_a_profile_limits_the_context() -> None:
    plan = a_plan(context_limit=4096)
    assert plan.longest_context == 4096 and not plan.fits


def test_pictures_at_once() -> None:
    plan = a_plan(kv_dtype="int4_per_token_head", weights="fp8_per_block")
    assert plan.picture_tokens == 1921
    assert plan.picture_kv_bytes == 1921 * 104 * 1024
    blocks = -(-(1921 + 512) // 16)
    assert plan.pictures_at_once == (plan.kv_blocks - 1) // blocks
    few = a_plan(limits=replace(LIMITS, max_num_seqs=3))
    assert few.pictures_at_once == 3


def test_a_cpu_cache_is_whole_gib_and_capped() -> None:
    plan = a_plan(device_kind="cpu", kv_cap_bytes=None)
    assert plan.kv_available_bytes % GIB == 0 and plan.block_tokens == 128
    assert a_plan(device_kind="cpu", kv_cap_bytes=2 * GIB).kv_available_bytes == 2 * GIB


def test_more_crops_and_bigger_batches_take_more() -> None:
    assert activations_bytes(MODEL, replace(LIMITS, num_crops=4)) < activations_bytes(MODEL, LIMITS)
    big = EngineLimits(max_num_seqs=1024, max_num_batched_tokens=8192, num_crops=16)
    assert activations_bytes(MODEL, big) > 2 * activations_bytes(MODEL, LIMITS)


def test_what_must_stay_outside_vllms_share() -> None:
    tight = {"budget_bytes": round(21.5 * GIB), "max_model_len": 4096}
    assert a_plan(**tight).reasons == ()
    quantized = a_plan(kv_dtype="int4_per_token_head", **tight)
    assert quantized.fits
    assert quantized.reasons == (
        "0.60 GiB left outside vLLM's share, 0.64 needed: lower --gpu-memory-utilization",
    )


def test_the_plan_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        a_plan().fits = True  # type: ignore[misc]


def test_the_demos_weights_are_counted_to_the_byte() -> None:
    from phi_vision.planning.checkpoint import DEMO_FOLDER
    from safetensors import safe_open

    folder = DEMO_FOLDER
    model = read_config_json(folder)
    used = {"text": 0, "vision": 0}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            # The tower's last layer and norm come after the image features: vLLM does not load them.
            unused = f"encoder.layers.{model.vision_layers}." in name or "post_layernorm" in name
            if not unused:
                used["vision" if "vision_embed_tokens" in name else "text"] += file.get_tensor(name).numel()
    assert model.vision_params == used["vision"]
    assert model.linear_params + model.other_text_params == used["text"]


def test_dimensions_from_a_published_config(tmp_path: Path) -> None:
    config = {
        "architectures": ["Phi3VForCausalLM"],
        "hidden_size": 3072,
        "img_processor": {"image_dim_out": 1024, "name": "clip_vision_model", "num_img_tokens": 144},
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "vocab_size": 32064,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config_json(tmp_path) == MODEL
    grouped = read_dimensions(config | {"num_key_value_heads": 8})
    assert kv_bytes_per_token(grouped, "bf16") == 96 * 1024
    assert grouped.linear_params < MODEL.linear_params
