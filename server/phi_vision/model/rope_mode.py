"""The rule for LongRoPE's two sets of factors. No vLLM, no torch.

The model has short factors for sequences of up to 4,096 tokens and long factors beyond. As in the
original code, a sequence that grows past this window is computed anew with the long factors.
"""

from __future__ import annotations

from typing import Literal

from phi_vision.spec import PHI_3_5_VISION

RopeMode = Literal["short", "long"]

HEADER = "x-phi-vision-rope"

_LONG = "long:"


def mode_from(tokens: int) -> RopeMode:
    """The mode of a sequence whose computation starts, or starts anew, with this many tokens.

    A prompt as long as the window is long: the original's flash attention, its default, chooses the
    factors for one token more (`rotary_seq_len = kv_seq_len + 1`).
    """
    return "short" if tokens < PHI_3_5_VISION.short_window else "long"


def outgrown(tokens: int) -> bool:
    """Whether a short sequence must be computed anew before a step over `tokens` tokens.

    The original drops its KV cache at this length (`prepare_inputs_for_generation`:
    `input_ids.shape[1] >= original_max_position_embeddings + 1`).
    """
    return tokens > PHI_3_5_VISION.short_window


def modes(prompt_tokens: int, answer_tokens: int) -> list[RopeMode]:
    """The modes of a request, in order. Its last token was only sampled, not computed."""
    first = mode_from(prompt_tokens)
    return ["short", "long"] if first == "short" and outgrown(prompt_tokens + answer_tokens - 1) else [first]


def cache_salt(mode: RopeMode, own: str | None) -> str | None:
    """The prefix cache's salt: the mode and the client's own salt. Salts of different modes are never equal.

    The prefix cache compares tokens, not positions, so without a salt it would return one mode's keys
    and values for the other's. A short request without a salt of its own needs none.
    """
    return f"{mode}:{own or ''}" if own or mode == "long" else None


def long_salt(salt: str | None) -> str:
    """The salt of a request in long mode, made from its salt in either mode."""
    return _LONG + (salt or "").partition(":")[2]


def is_long(salt: str | None) -> bool:
    """Whether this is the salt of a request in long mode."""
    return salt is not None and salt.startswith(_LONG)
