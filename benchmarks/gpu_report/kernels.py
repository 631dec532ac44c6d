"""The kernels that this model runs on a GPU, one by one, against the same arithmetic on the CPU.

Inputs are made and references computed on the CPU, and outputs begin as NaN where the kernel is given them,
so that a kernel that does not run cannot pass.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional as F

_TOLERANCE = 1e-2  # relative error of bf16 arithmetic
_HEADS, _HEAD_DIM, _HIDDEN, _MLP = 32, 96, 3072, 8192
_BLOCK = 16  # tokens of a KV cache block


def check_kernels() -> dict[str, Any]:
    """Relative error of each kernel, |got - want| / |want|, and whether it is right."""
    rows: dict[str, dict[str, Any]] = {}

    def compare(name: str, got: torch.Tensor, want: torch.Tensor) -> None:
        torch.cuda.synchronize()
        error = float((got.cpu().double() - want.double()).norm() / want.double().norm())
        rows[name] = {"relative_error": error, "right": error < _TOLERANCE}  # NaN is not
        print(f"{name:<32}{error:.1e}", flush=True)

    torch.manual_seed(time.time_ns() % 2**31)
    for part in (_layers, _attention, _vision):
        try:
            part(compare)
        except Exception as error:  # the others may run
            rows[part.__name__.strip("_")] = {"error": f"{type(error).__name__}: {error}"[:1000]}
    return rows


def check_quantized_caches(device: str) -> dict[str, Any]:
    """vLLM's kernels of the per-token-head caches against `studies.kv_quantization`'s arithmetic in torch."""
    from benchmarks.studies.kv_quantization import run_kernels

    rows = {}
    for kv_dtype in ("int8_per_token_head", "int4_per_token_head"):
        row: dict[str, Any] = run_kernels(kv_dtype, device)
        # On a GPU the rotation before int4 is rounded to bf16: some cells fall on the other side.
        right = row["cells_equal"] > 0.9 and row["attention_off_torch_percent"] < 3
        rows[kv_dtype] = {**row, "right": right}
        print(kv_dtype, rows[kv_dtype], flush=True)
    return rows


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16()


def _unwritten(*shape: int) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=torch.bfloat16, device="cuda")


def _layers(compare: Any) -> None:
    import vllm._custom_ops as ops

    x, weight, out = _random(77, _HIDDEN), _random(_HIDDEN), _unwritten(77, _HIDDEN)
    ops.rms_norm(out, x.cuda(), weight.cuda(), 1e-5)
    scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
    compare("rms_norm", out, x.float() * scale * weight.float())

    x, out = _random(77, 2 * _MLP), _unwritten(77, _MLP)
    torch.ops._C.silu_and_mul(out, x.cuda())
    gate, up = x.float().chunk(2, -1)
    compare("silu_and_mul", out, F.silu(gate) * up)

    x, weight = _random(129, _HIDDEN), _random(_HIDDEN, 512)
    compare("matrix product, bf16", x.cuda() @ weight.cuda(), x.float() @ weight.float())


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """(..., tokens, heads, dim) in float32."""
    q, k, v = (x.float().transpose(-3, -2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(-3, -2)


def _attention(compare: Any) -> None:
    """Head size 96 over a paged cache whose blocks are out of order: a prompt, and one more token."""
    import vllm._custom_ops as ops
    from vllm.vllm_flash_attn import flash_attn_varlen_func, is_fa_version_supported

    tokens = 130
    q, k, v = (_random(tokens, _HEADS, _HEAD_DIM) for _ in range(3))
    want = _attended(q, k, v, causal=True)
    blocks = (torch.arange((tokens + _BLOCK - 1) // _BLOCK) + 2).flip(0)
    k_cache, v_cache = (_unwritten(len(blocks) + 3, _BLOCK, _HEADS, _HEAD_DIM).zero_() for _ in range(2))
    position = torch.arange(tokens)
    slots = blocks[position // _BLOCK] * _BLOCK + position % _BLOCK
    one = torch.ones((), device="cuda")
    ops.reshape_and_cache_flash(k.cuda(), v.cuda(), k_cache, v_cache, slots.cuda(), "auto", one, one)
    compare("write keys to the cache", k_cache.cpu().view(-1, _HEADS, _HEAD_DIM)[slots], k.float())
    compare("write values to the cache", v_cache.cpu().view(-1, _HEADS, _HEAD_DIM)[slots], v.float())

    version = 3 if is_fa_version_supported(3) else 2
    paged = {
        "seqused_k": torch.tensor([tokens], dtype=torch.int32, device="cuda"),
        "max_seqlen_k": tokens,
        "block_table": blocks.int()[None].contiguous().cuda(),
        "causal": True,
        "fa_version": version,
    }
    for name, rows in (("prompt", tokens), ("one token", 1)):
        got = flash_attn_varlen_func(
            q[-rows:].contiguous().cuda(),
            k_cache,
            v_cache,
            max_seqlen_q=rows,
            cu_seqlens_q=torch.tensor([0, rows], dtype=torch.int32, device="cuda"),
            out=_unwritten(rows, _HEADS, _HEAD_DIM),
            **paged,
        )
        compare(f"FlashAttention {version}, {name}", got, want[-rows:])


def _vision(compare: Any) -> None:
    """The tower's attention over two crops, and its first layer."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func, is_fa_version_supported

    crops, positions, heads, dim = 2, 577, 16, 64
    version = 3 if is_fa_version_supported(3) else 2
    q, k, v = (_random(crops * positions, heads, dim) for _ in range(3))
    ends = torch.arange(0, (crops + 1) * positions, positions, dtype=torch.int32, device="cuda")
    got = flash_attn_varlen_func(
        *(x.cuda() for x in (q, k, v)),
        max_seqlen_q=positions,
        cu_seqlens_q=ends,
        max_seqlen_k=positions,
        cu_seqlens_k=ends,
        causal=False,
        fa_version=version,
        out=_unwritten(crops * positions, heads, dim),
    )
    shape = (crops, positions, heads, dim)
    want = _attended(*(x.view(shape) for x in (q, k, v)), causal=False)
    compare(f"FlashAttention {version}, vision tower", got, want.reshape(-1, heads, dim))
    x, weight = _random(2, 3, 336, 336), _random(256, 3, 14, 14)
    compare(
        "patch embedding",
        F.conv2d(x.cuda(), weight.cuda(), stride=14),
        F.conv2d(x.float(), weight.float(), stride=14),
    )
