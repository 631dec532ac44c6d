"""LongRoPE with both sets of factors in one engine: the table, and each request's rows in it.

vLLM picks the factors once, by `max_model_len`. Here its rotary module holds one cos/sin table,
all positions with the short factors and then all with the long ones, and the positions of a
request say which half it reads. vLLM asks the model for those through its M-RoPE interface, when
a request starts and when a preempted one resumes: `rope_scheduler` preempts what outgrows the window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import (
    Phi3LongRoPEScaledRotaryEmbedding,
)

from phi_vision.model.rope_mode import mode_from
from phi_vision.spec import PHI_3_5_VISION

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
    if rotary.original_max_position_embeddings != PHI_3_5_VISION.short_window:
        raise ValueError(
            f"short factors end at {rotary.original_max_position_embeddings} tokens in this checkpoint, "
            f"not at {PHI_3_5_VISION.short_window}: use --rope long"
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


def positions(num_tokens: int, long_offset: int) -> tuple[torch.Tensor, int]:
    """Rows of the table for a sequence, and what is to be added to the positions that follow it.

    Args:
        num_tokens: of the prompt; of a preempted request that resumes, its answer so far included.
        long_offset: row where the long half begins; 0: there is one half.

    Returns:
        (MROPE_ROWS, num_tokens), and the offset.
    """
    offset = long_offset if mode_from(num_tokens) == "long" else 0
    return torch.arange(offset, offset + num_tokens).expand(MROPE_ROWS, -1), offset


def ask_again_on_resumption() -> None:
    """Have vLLM's V1 runner ask for positions when a preempted request resumes, as its V2 runner does.

    Symptom: on a CPU, and on CUDA with features that V2 lacks, a resumed request keeps its rows.
    Cause: V1 asks when it first sees a request. Can go: with the V1 runner.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    prepare = GPUModelRunner._calc_mrope_positions
    if prepare.__module__ == __name__:
        return

    def ask_and_prepare(runner: Any, scheduler_output: Any) -> None:
        for request_id in scheduler_output.scheduled_cached_reqs.resumed_req_ids:
            request = runner.requests[request_id]
            tokens = [0] * request.num_tokens  # only their number counts
            request.mrope_positions, request.mrope_position_delta = (
                runner.get_model().get_mrope_input_positions(tokens, request.mm_features)
            )
        prepare(runner, scheduler_output)

    GPUModelRunner._calc_mrope_positions = ask_and_prepare
