"""Norms and rotary embedding of the text model by vLLM's own CPU kernels.

Symptom: in eager mode, which phi-vision starts on a CPU, a prompt takes longer than it needs to
(`benchmarks/studies/cpu_layers.py` says how much).
Cause: vLLM's CPU platform leaves both to a dozen operations of PyTorch each, for torch.compile to fuse; its
own kernels for them are in the build and are not called.
Can go: when vLLM calls them in eager mode.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import (
    Phi3LongRoPEScaledRotaryEmbedding,
)


@RMSNorm.register_oot(name="RMSNorm")
class CPURMSNorm(RMSNorm):
    """What vLLM builds for `RMSNorm` once this module is imported. Compiled code has its own norm."""

    def forward_cpu(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Normalise `x`, or `x` plus `residual`, which then becomes their sum; both are (tokens, hidden)."""
        if self.variance_size_override is not None or not x.is_contiguous():  # in other models
            return self.forward_native(x, residual)
        if residual is None:
            normed = torch.empty_like(x)
            torch.ops._C.rms_norm(normed, x, self.weight.data, self.variance_epsilon)
            return normed
        torch.ops._C.fused_add_rms_norm(x, residual, self.weight.data, self.variance_epsilon)
        return x, residual


CPURMSNorm.name = RMSNorm.name  # by which `custom_ops` of vLLM's compilation config turns it on or off


def use_rotary_kernel(language_model: nn.Module) -> None:
    """Have the rotary module, which all layers share, rotate with the kernel."""
    for module in language_model.modules():
        if isinstance(module, Phi3LongRoPEScaledRotaryEmbedding):
            module.forward = partial(_rotate, module)


def _rotate(
    rotary: Phi3LongRoPEScaledRotaryEmbedding, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate `query` and `key`, (tokens, heads * head_size) each, in place."""
    if rotary.use_long_rope:
        positions = positions + rotary.original_max_position_embeddings
    table = rotary.long_short_cos_sin_cache
    torch.ops._C.rotary_embedding(positions, query, key, rotary.head_size, table, True)
    return query, key
