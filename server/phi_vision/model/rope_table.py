"""LongRoPE with both sets of factors in one engine: the cos/sin table, and each request's rows in it.

Symptom: a server with a long context computes short prompts with the long factors, unlike the original.
Cause: vLLM picks the factors once, by `max_model_len`. Here its rotary module holds one table, all positions
with the short factors followed by all positions with the long ones, and the positions of a request select the
half. vLLM asks the model for positions through its M-RoPE interface, when a request starts and when a
preempted one resumes; `rope_scheduler` preempts a request that outgrows the short window.
Can go: when vLLM chooses LongRoPE's factors by the length of a sequence.
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


def build_dual_rope_table(language_model: nn.Module) -> int:
    """Put both halves into the rotary module, which all layers of `language_model` share.

    The short half is as long as the long one (25 MB at 131,072 positions in bf16), so no position
    of a short request can reach a long row.

    Returns:
        The row where the long half begins.

    Raises:
        ValueError: the checkpoint's short factors end at another length than `ModelSpec.short_window`.
    """
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
    rotary.use_long_rope = False  # or vLLM's forward would add an offset of its own to the positions
    return rows


def positions(num_tokens: int, long_offset: int) -> tuple[torch.Tensor, int]:
    """Table rows for the tokens of a sequence.

    Args:
        num_tokens: length of the prompt, and of the answer so far where a preempted request resumes.
        long_offset: the row where the long half begins; 0 where there is only one half.

    Returns:
        Rows, (MROPE_ROWS, num_tokens), and the offset to add to the positions of later tokens.
    """
    offset = long_offset if mode_from(num_tokens) == "long" else 0
    return torch.arange(offset, offset + num_tokens).expand(MROPE_ROWS, -1), offset


def refresh_positions_on_resumption() -> None:
    """Have vLLM's V1 runner ask for positions again when a preempted request resumes, as its V2 runner does.

    Symptom: on a CPU, and on CUDA with features that V2 lacks, a resumed request keeps its old rows.
    Cause: the V1 runner asks only when it first sees a request.
    Can go: with the V1 runner.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    calc_mrope_positions = GPUModelRunner._calc_mrope_positions
    if calc_mrope_positions.__module__ == __name__:
        return  # once in a process, which may hold several models

    def refresh_and_calc(runner: Any, scheduler_output: Any) -> None:
        for request_id in scheduler_output.scheduled_cached_reqs.resumed_req_ids:
            request = runner.requests[request_id]
            tokens = [0] * request.num_tokens  # `positions` needs only their number
            request.mrope_positions, request.mrope_position_delta = (
                runner.get_model().get_mrope_input_positions(tokens, request.mm_features)
            )
        calc_mrope_positions(runner, scheduler_output)

    GPUModelRunner._calc_mrope_positions = refresh_and_calc
