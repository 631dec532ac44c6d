"""What fits: weights, activations and KV cache against the memory of a device. Pure arithmetic.

KV cells and their rounding are vLLM's own and exact (`v1/kv_cache_interface.py`,
`v1/core/kv_cache_utils.py`). Weights as published are exact to the norms' scales; what quantizing them leaves
in torch's allocator was measured. Activations are an upper estimate of what vLLM's profiling run allocates at
its worst picture and batch; `RUNTIME_BYTES` is an assumption. On every start the server logs how far the plan
was off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from phi_vision.model.geometry import CROP_PX, canvas_tokens, num_image_tokens
from phi_vision.spec import Dimensions

GIB = 1 << 30
BF16_BYTES = 2  # and float16's
FLOAT32_BYTES = 4

# --kv-cache-dtype -> (bits an element, bytes of scales a head and token). The per-token-head kinds
# keep a float32 scale for K and one for V beside the data.
KV_DTYPES: Mapping[str, tuple[int, int]] = {
    "bf16": (16, 0),
    "fp8_e4m3": (8, 0),
    "int8_per_token_head": (8, 8),
    "int4_per_token_head": (4, 8),
}

# Bits a parameter of the text layers' matrices, scales included. fp8 has one for each 128 x 128 block, which
# Marlin, the kernel below 9.0, spreads to 16 bits for each 128 parameters; mxfp4 a byte for each 32.
WEIGHTS_BITS: Mapping[str, float] = {"bf16": 16, "fp8_per_block": 8 + 16 / 128, "mxfp4": 4 + 8 / 32}

# What torch's allocator keeps of the bf16 matrices that were quantized, one by one, while loading: pieces of
# its segments between the quantized ones. Measured with vLLM's loader and torch's allocator; mxfp4's: 0.02.
LEFTOVER_BYTES: Mapping[str, int] = {"fp8_per_block": round(0.35 * GIB)}

# Kernels, workspaces and CUDA graphs inside vLLM's share of a GPU: assumed. On a CPU the server's three
# processes beside weights and caches: 1.5 GiB were measured (benchmarks/studies/cpu_memory.py), the rest is
# for requests at work.
RUNTIME_BYTES: Mapping[str, int] = {"cuda": round(0.85 * GIB), "cpu": 2 * GIB}
CUDA_CONTEXT_BYTES = GIB // 2  # taken outside vLLM's share

BLOCK_TOKENS: Mapping[str, int] = {"cuda": 16, "cpu": 128}  # KV cache block, vLLM's default
# The KV cache grows in these steps: vLLM takes a CPU's in whole GiB.
KV_STEP_BYTES: Mapping[str, int] = {"cuda": 1, "cpu": GIB}

# The request that "pictures at once" counts.
PICTURE_PX = (800, 600)
PICTURE_TEXT_TOKENS = 512  # its question and answer


@dataclass(frozen=True)
class EngineLimits:
    """How much work vLLM may take on at once."""

    max_num_seqs: int
    max_num_batched_tokens: int
    num_crops: int  # of the worst picture
    element_bytes: int = BF16_BYTES  # where the names below say bf16; 4 if vLLM was told `--dtype float32`


@dataclass(frozen=True)
class MemoryPlan:
    """Every term in bytes, and what follows from them."""

    weights: str
    kv_dtype: str
    max_model_len: int  # tokens asked for
    max_num_seqs: int
    max_num_batched_tokens: int
    total_bytes: int
    budget_bytes: int  # of those, vLLM's share
    text_weights_bytes: int
    vision_weights_bytes: int
    activations_bytes: int
    runtime_bytes: int  # on a CPU with the caches of processed pictures
    kv_available_bytes: int  # never below zero
    kv_bytes_per_token: int
    block_tokens: int
    kv_blocks: int
    kv_tokens: int  # as vLLM counts them, its null block included
    longest_context: int  # tokens of one sequence, up to the limit of model and profile
    concurrency: float  # requests of max_model_len at once
    picture_tokens: int  # of a PICTURE_PX picture at num_crops
    picture_kv_bytes: int
    pictures_at_once: int  # requests with one such picture and PICTURE_TEXT_TOKENS
    fits: bool
    reasons: tuple[str, ...]  # why it does not fit, or what to know if it does


def kv_bytes_per_token(model: Dimensions, kv_dtype: str, element_bytes: int = BF16_BYTES) -> int:
    """Keys and values of all layers and heads for one token."""
    bits, scale_bytes = KV_DTYPES[kv_dtype]
    bits = 8 * element_bytes if kv_dtype == "bf16" else bits
    return model.layers * model.kv_heads * (2 * model.head_dim * bits // 8 + scale_bytes)


def text_weights_bytes(model: Dimensions, weights: str, element_bytes: int = BF16_BYTES) -> int:
    """What the language model holds, with its rotary tables."""
    bits = 8 * element_bytes if weights == "bf16" else WEIGHTS_BITS[weights]
    rope = 2 * model.max_position * model.head_dim  # short and long rows, as many of each: `model.rope`
    held = math.ceil(model.linear_params * bits / 8) + (model.other_text_params + rope) * element_bytes
    return held + LEFTOVER_BYTES.get(weights, 0)


def activations_bytes(model: Dimensions, limits: EngineLimits) -> int:
    """Peak of vLLM's profiling run: the worst pictures, then a full batch of text, then sampling."""
    worst_tokens = canvas_tokens(limits.num_crops, 1)  # a column of crops has the most separators
    encoder_tokens = max(limits.max_num_batched_tokens, worst_tokens)
    crops = encoder_tokens // worst_tokens * (limits.num_crops + 1)
    pixels = 4 * 3 * CROP_PX**2 * FLOAT32_BYTES  # normalised, cut, joined
    # In the tower's MLP: three tensors of its width for quick-GELU, four of the model's.
    tower = model.vision_positions * (3 * model.vision_mlp + 4 * model.vision_hidden) * limits.element_bytes
    vision = crops * (pixels + tower)
    text = limits.max_num_batched_tokens * (2 * model.hidden + 3 * model.mlp) * limits.element_bytes
    # Logits in float32, sorted copies with int64 indices, and probabilities.
    sampling = limits.max_num_seqs * model.vocab * 6 * FLOAT32_BYTES
    embeddings = (encoder_tokens + limits.max_num_batched_tokens) * model.hidden * limits.element_bytes
    return embeddings + max(vision, text, sampling)


def memory_plan(
    model: Dimensions,
    *,
    device_kind: str,
    total_bytes: int,
    budget_bytes: int,
    weights: str,
    kv_dtype: str,
    max_model_len: int,
    limits: EngineLimits,
    context_limit: int,
    beside_bytes: int = 0,
    kv_cap_bytes: int | None = None,
) -> MemoryPlan:
    """Plan one setting.

    Args:
        model: its dimensions.
        device_kind: cuda or cpu.
        total_bytes: memory of the device as its driver reports it.
        budget_bytes: the share of it that vLLM may take.
        weights: a key of `WEIGHTS_BITS`; the vision tower stays in bf16.
        kv_dtype: a key of `KV_DTYPES`.
        max_model_len: context in tokens that must fit.
        limits: of the engine.
        context_limit: tokens that model and profile allow at most.
        beside_bytes: of what else lies in the same memory: vLLM's caches of pictures, more API processes.
        kv_cap_bytes: the KV cache is no larger than this, even if there is room.
    """
    text = text_weights_bytes(model, weights, limits.element_bytes)
    vision = model.vision_params * limits.element_bytes
    activations = activations_bytes(model, limits)
    runtime = RUNTIME_BYTES[device_kind] + beside_bytes
    available = max(0, budget_bytes - text - vision - activations - runtime)
    if kv_cap_bytes is not None:
        available = min(available, kv_cap_bytes)
    available -= available % KV_STEP_BYTES[device_kind]

    per_token = kv_bytes_per_token(model, kv_dtype, limits.element_bytes)
    block_tokens = BLOCK_TOKENS[device_kind]
    blocks = available // (per_token * block_tokens)
    usable_blocks = max(0, blocks - 1)  # vLLM keeps one back, the null block
    longest = min(context_limit, usable_blocks * block_tokens)

    picture_tokens = num_image_tokens(*PICTURE_PX, limits.num_crops)
    picture_blocks = math.ceil((picture_tokens + PICTURE_TEXT_TOKENS) / block_tokens)
    return MemoryPlan(
        weights=weights,
        kv_dtype=kv_dtype,
        max_model_len=max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        total_bytes=total_bytes,
        budget_bytes=budget_bytes,
        text_weights_bytes=text,
        vision_weights_bytes=vision,
        activations_bytes=activations,
        runtime_bytes=runtime,
        kv_available_bytes=available,
        kv_bytes_per_token=per_token,
        block_tokens=block_tokens,
        kv_blocks=blocks,
        kv_tokens=blocks * block_tokens,
        longest_context=longest,
        concurrency=blocks / math.ceil(max_model_len / block_tokens),
        picture_tokens=picture_tokens,
        picture_kv_bytes=picture_tokens * per_token,
        pictures_at_once=min(limits.max_num_seqs, usable_blocks // picture_blocks),
        fits=longest >= max_model_len,
        reasons=_reasons(
            longest,
            max_model_len,
            left_bytes=total_bytes - budget_bytes,
            needed_outside_bytes=outside_bytes(model, kv_dtype, limits) if device_kind == "cuda" else 0,
        ),
    )


def outside_bytes(model: Dimensions, kv_dtype: str, limits: EngineLimits) -> int:
    """What a GPU must have left outside vLLM's share.

    The CUDA context, and what the per-token-head kinds allocate beside the cache: queries, keys, values
    and output in float32, rotated. vLLM's profiling run does not see those.
    """
    per_head = kv_dtype.endswith("per_token_head")
    temporaries = 6 * limits.max_num_batched_tokens * model.hidden * FLOAT32_BYTES
    return CUDA_CONTEXT_BYTES + (temporaries if per_head else 0)


def _reasons(
    longest: int, max_model_len: int, *, left_bytes: int, needed_outside_bytes: int
) -> tuple[str, ...]:
    reasons = []
    if longest < max_model_len:
        reasons.append(f"{max_model_len:,} tokens asked for, {longest:,} fit")
    if left_bytes < needed_outside_bytes:
        needed, left = needed_outside_bytes / GIB, left_bytes / GIB
        reasons.append(
            f"{left:.2f} GiB left outside vLLM's share, {needed:.2f} needed: lower --gpu-memory-utilization"
        )
    return tuple(reasons)
