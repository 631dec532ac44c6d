"""The error of vLLM's quantized KV caches at Phi-3.5-vision's head size, without a GPU and without weights.

What it is: vLLM's own Triton kernels (write to the cache, attention over it) run in Triton's interpreter
on a CPU at a small size; the arithmetic they do, written again in torch, is checked against what they put
into the cache and then used at a large size. What it is not: an accuracy of the model. Keys and values are
random, because the trained ones are not here; the outlier channels imitate those that trained keys have.

    TRITON_INTERPRET=1 python -m benchmarks.studies.kv_quantization --output FILE
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.backends

# vLLM's CPU build switches Triton off without a backend of this name; the interpreter needs none.
if not torch.cuda.is_available():
    triton.backends.backends.setdefault("cpu", triton.backends.backends["nvidia"])

import vllm
from vllm.v1.attention.ops.int4_per_token_head import _get_rht_signs, reshape_and_cache_int4
from vllm.v1.attention.ops.triton_reshape_and_cache_flash import (
    triton_reshape_and_cache_flash_per_token_head_quant,
)
from vllm.v1.attention.ops.triton_unified_attention import unified_attention
from vllm.v1.kv_cache_interface import KVQuantMode

HEAD_DIM = 96
RHT_BLOCK = 32  # largest power of two that divides the head size: the rotation works on 3 blocks of 32
BLOCK_TOKENS = 16
KERNEL_TOKENS, KERNEL_HEADS = 48, 2
TOKENS, HEADS, QUERIES = 8192, 8, 16
SEED = 35

Roundtrip = Callable[[torch.Tensor], torch.Tensor]


def round_away(x: torch.Tensor) -> torch.Tensor:
    """Half away from zero, as the kernels do it."""
    return torch.where(x >= 0, x + 0.5, x - 0.5).trunc()


def rotated(x: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """vLLM's `single_rht` in plain torch, which its CUDA build has for tensors on a GPU alone."""
    shape, signs = x.shape, _get_rht_signs(RHT_BLOCK, 0, x.device)
    x = x.reshape(*shape[:-1], -1, RHT_BLOCK)
    x = x if inverse else x * signs
    width = 1
    while width < RHT_BLOCK:
        first, second = x.reshape(*x.shape[:-1], -1, 2, width).unbind(-2)
        x = torch.stack([first + second, first - second], -2).reshape(x.shape)
        width *= 2
    return (x * signs if inverse else x).reshape(shape)


def quantize_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., head) -> integers, scale (..., 1)."""
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-6)
    return round_away(x * (1 / scale)).clamp(-128, 127), scale


def quantize_int4(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(..., head) -> integers 0..15 of the rotated head, scale, zero point, both (..., 1)."""
    x = rotated(x.float()).to(x.dtype).float()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-6)
    zero = round_away(-low / scale).clamp(0, 15)
    integers = round_away(x * (1 / scale) + zero).clamp(0, 15)
    # The zero point is kept in the scale's last four mantissa bits, which are lost to it.
    scale = (scale.view(torch.int32) & -16).view(torch.float32)
    return integers, scale, zero


def int8_roundtrip(x: torch.Tensor) -> torch.Tensor:
    """What attention reads back of (..., head)."""
    integers, scale = quantize_int8(x)
    return integers * scale


def int4_roundtrip(x: torch.Tensor) -> torch.Tensor:
    """What attention reads back of (..., head), turned back."""
    integers, scale, zero = quantize_int4(x)
    return rotated((integers - zero) * scale, inverse=True) / RHT_BLOCK


ROUNDTRIPS: dict[str, Roundtrip] = {
    "bf16": lambda x: x.float(),
    "fp8_e4m3": lambda x: x.to(torch.float8_e4m3fn).float(),  # scale 1, vLLM's default
    "int8_per_token_head": int8_roundtrip,
    "int4_per_token_head": int4_roundtrip,
}


def gaussian(tokens: int, heads: int, *, outliers: bool, generator: torch.Generator) -> torch.Tensor:
    """bf16 (tokens, heads, HEAD_DIM); with `outliers` four channels of each head are eight times as wide."""
    x = torch.randn(tokens, heads, HEAD_DIM, generator=generator)
    if outliers:
        x[..., [5, 29, 53, 77]] *= 8
    return x.bfloat16()


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """float64: (queries, heads, dim) over (tokens, heads, dim) -> (queries, heads, dim); no mask."""
    logits = torch.einsum("qhd,thd->hqt", q.double(), k.double()) / math.sqrt(HEAD_DIM)
    return torch.einsum("hqt,thd->qhd", logits.softmax(-1), v.double())


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want|, both taken as vectors."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def measure(roundtrip: Roundtrip, *, outliers: bool) -> dict[str, float]:
    """Error of keys, values and of attention over TOKENS of them, in percent."""
    generator = torch.Generator().manual_seed(SEED)
    k = gaussian(TOKENS, HEADS, outliers=outliers, generator=generator)
    v = gaussian(TOKENS, HEADS, outliers=False, generator=generator)
    # Each query looks for one key among the others, as retrieval heads do.
    sought = torch.randint(TOKENS, (QUERIES,), generator=generator)
    noise = torch.randn(QUERIES, HEADS, HEAD_DIM, generator=generator)
    q = k[sought].float() / k.float().std() + 0.5 * noise
    got = attention(q, roundtrip(k), roundtrip(v))
    return {
        "keys_percent": round(100 * relative_error(roundtrip(k), k), 3),
        "values_percent": round(100 * relative_error(roundtrip(v), v), 3),
        "attention_percent": round(100 * relative_error(got, attention(q, k, v)), 3),
    }


def run_kernels(kv_dtype: str, device: str = "cpu") -> dict[str, float]:
    """Write KERNEL_TOKENS with vLLM's kernel, attend with the last one; against the torch arithmetic.

    On a GPU (`device` cuda) in bf16, as it is served; the arithmetic is on the CPU in any case.
    """
    generator = torch.Generator().manual_seed(SEED)
    k = gaussian(KERNEL_TOKENS, KERNEL_HEADS, outliers=True, generator=generator)
    v = gaussian(KERNEL_TOKENS, KERNEL_HEADS, outliers=False, generator=generator)
    q = gaussian(1, KERNEL_HEADS, outliers=False, generator=generator)
    if device == "cpu":  # the interpreter keeps bf16 as raw integers, so int8 -> bf16 goes wrong there
        q, k, v = q.float(), k.float(), v.float()
    blocks = KERNEL_TOKENS // BLOCK_TOKENS
    is_int4 = kv_dtype == "int4_per_token_head"
    mode = KVQuantMode.INT4_PER_TOKEN_HEAD if is_int4 else KVQuantMode.INT8_PER_TOKEN_HEAD
    cells = (HEAD_DIM // 2, torch.uint8) if is_int4 else (HEAD_DIM, torch.int8)
    k_cache, v_cache = (
        torch.zeros(blocks, BLOCK_TOKENS, KERNEL_HEADS, cells[0], dtype=cells[1], device=device)
        for _ in range(2)
    )
    k_scale, v_scale = (torch.zeros(blocks, BLOCK_TOKENS, KERNEL_HEADS, device=device) for _ in range(2))
    slots = torch.arange(KERNEL_TOKENS, device=device)
    given = k.to(device), v.to(device), k_cache, v_cache
    if is_int4:
        reshape_and_cache_int4(*given, slots, k_scale_cache=k_scale, v_scale_cache=v_scale)
        integers, scale, zero = quantize_int4(k)
        want_bytes = (integers[..., 0::2] + 16 * integers[..., 1::2]).to(torch.uint8)
        want_scale = (scale.view(torch.int32) | zero.int()).view(torch.float32)
    else:
        triton_reshape_and_cache_flash_per_token_head_quant(*given, k_scale, v_scale, slots, mode)
        integers, want_scale = quantize_int8(k)
        want_bytes = integers.to(torch.int8)
    out = torch.full_like(q, float("nan"), device=device)
    unified_attention(
        q.to(device),
        k_cache,
        v_cache,
        out,
        cu_seqlens_q=torch.tensor([0, 1], dtype=torch.int32, device=device),
        max_seqlen_q=1,
        seqused_k=torch.tensor([KERNEL_TOKENS], dtype=torch.int32, device=device),
        max_seqlen_k=KERNEL_TOKENS,
        softmax_scale=HEAD_DIM**-0.5,
        causal=True,
        window_size=(-1, -1),
        block_table=torch.arange(blocks, dtype=torch.int32, device=device)[None],
        softcap=0,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        kv_quant_mode=mode,
        k_scale_cache=k_scale,
        v_scale_cache=v_scale,
    )
    roundtrip = ROUNDTRIPS[kv_dtype]
    exact = attention(q, k, v)
    emulated = attention(q, roundtrip(k), roundtrip(v))
    return {
        "cells_equal": float((k_cache.cpu().flatten(0, 1) == want_bytes).float().mean()),
        "scales_equal": float((k_scale.cpu().flatten(0, 1) == want_scale[..., 0]).float().mean()),
        "attention_percent": round(100 * relative_error(out.cpu(), exact), 3),
        "attention_off_torch_percent": round(100 * relative_error(out.cpu(), emulated), 5),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Error of quantized KV caches at head size 96.")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("set TRITON_INTERPRET=1: this runs vLLM's kernels without a GPU")
    torch.set_num_threads(2)
    errors = {
        kind: {name: measure(r, outliers=kind == "outlier_keys") for name, r in ROUNDTRIPS.items()}
        for kind in ("gaussian", "outlier_keys")
    }
    kernels = {name: run_kernels(name) for name in ("int8_per_token_head", "int4_per_token_head")}
    print(f"{'keys':<14}{'KV cache':<22}{'keys %':>8}{'values %':>10}{'attention %':>13}")
    for kind, rows in errors.items():
        for name, row in rows.items():
            keys, values, attended = row.values()
            print(f"{kind:<14}{name:<22}{keys:>8.2f}{values:>10.2f}{attended:>13.2f}")
    for name, row in kernels.items():
        print(f"kernels in the interpreter, {name}: {row}")
    result = {
        "what": __doc__.split("\n\n")[1],
        "command": "TRITON_INTERPRET=1 python -m benchmarks.studies.kv_quantization",
        "machine": f"{platform.machine()} CPU, Triton interpreter; no GPU",
        "versions": {"vllm": vllm.__version__, "torch": torch.__version__, "triton": triton.__version__},
        "head_dim": HEAD_DIM,
        "sizes": {
            "tokens": TOKENS,
            "heads": HEADS,
            "queries": QUERIES,
            "kernel_tokens": KERNEL_TOKENS,
            "kernel_heads": KERNEL_HEADS,
        },
        "seed": SEED,
        "errors": errors,
        "kernels": kernels,
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
