"""LongRoPE with both sets of factors in one engine: the table, and each request's rows in it.

vLLM picks the factors once, by `max_model_len`. Here its rotary module holds one cos/sin table,
all positions with the short factors and then all with the long ones, and the positions of a
request say which half it reads. vLLM asks the model for those through its M-RoPE interface, in
both of its runners; what the request's mode is travels in its multimodal items (`rope_mode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import (
    Phi3LongRoPEScaledRotaryEmbedding,
)

from phi_vision.rope_mode import SHORT_MARK, SHORT_WINDOW

MROPE_ROWS = 3  # vLLM's least number of position rows; ours are all equal, and the model reads one


def hold_both_modes(language_model: nn.Module) -> int:
    """Give the rotary module of `language_model` both halves; returns the row where the long one begins.

    The short half is as long as the long one (25 MB at 131,072 positions in bf16), so no position
    of a short request can reach a long row.

    Raises:
        ValueError: a checkpoint whose short factors end elsewhere than requests are decided by.
    """
    # One module, shared by all layers.
    (rotary,) = (m for m in language_model.modules() if isinstance(m, Phi3LongRoPEScaledRotaryEmbedding))
    if rotary.original_max_position_embeddings != SHORT_WINDOW:
        raise ValueError(
            f"short factors end at {rotary.original_max_position_embeddings} tokens in this checkpoint, "
            f"not at {SHORT_WINDOW}: use --rope long"
        )
    rows = rotary.max_position_embeddings
    old = rotary.long_short_cos_sin_cache
    halves = (
        rotary._compute_cos_sin_cache(rows, rotary.short_factor, rotary.short_mscale),
        rotary._compute_cos_sin_cache(rows, rotary.long_factor, rotary.long_mscale),
    )
    rotary.long_short_cos_sin_cache = torch.cat(halves).to(old.device, old.dtype)  # (2 * rows, head_dim)
    rotary.use_long_rope = False  # vLLM's forward now takes positions as rows, without an offset of its own
    return rows


def positions(num_tokens: int, features: Sequence[Any], long_offset: int) -> tuple[torch.Tensor, int]:
    """Rows of the table for a prompt, and what is to be added to the positions that follow it.

    Args:
        num_tokens: of the prompt (when a preempted request resumes, of its answer so far too).
        features: vLLM's `MultiModalFeatureSpec`s of the request.
        long_offset: row where the long half begins.

    Returns:
        (MROPE_ROWS, num_tokens), and the offset.
    """
    offset = 0 if any(feature.modality == SHORT_MARK for feature in features) else long_offset
    return torch.arange(offset, offset + num_tokens).expand(MROPE_ROWS, -1), offset
