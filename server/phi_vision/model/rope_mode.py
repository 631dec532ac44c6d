"""Which of LongRoPE's two sets of factors a sequence is computed with: the rule alone, no vLLM.

The model has short factors for sequences of up to 4,096 tokens and long ones beyond. As in the
original code, a sequence that grows past that is computed anew with the long ones.
"""

from __future__ import annotations

from typing import Literal

from phi_vision.spec import PHI_3_5_VISION

RopeMode = Literal["short", "long"]

HEADER = "x-phi-vision-rope"

_LONG = "long:"


def mode_from(tokens: int) -> RopeMode:
    """The mode of a sequence whose computation begins, or begins anew, with this many tokens.

    A prompt of exactly the window is long: the original's flash attention, its default, takes the
    factors for one token more than there are (`rotary_seq_len = kv_seq_len + 1`).
    """
    return "short" if tokens < PHI_3_5_VISION.short_window else "long"


def outgrown(tokens: int) -> bool:
    """Whether a short sequence must be computed anew for the next step to go over `tokens` tokens.

    The original drops its cache at this length (`prepare_inputs_for_generation`:
    `input_ids.shape[1] >= original_max_position_embeddings + 1`).
    """
    return tokens > PHI_3_5_VISION.short_window


def modes(prompt_tokens: int, answer_tokens: int) -> list[RopeMode]:
    """The modes that a request went through, in order; its last token was only sampled, not computed."""
    first = mode_from(prompt_tokens)
    return ["short", "long"] if first == "short" and outgrown(prompt_tokens + answer_tokens - 1) else [first]


def cache_salt(mode: RopeMode, own: str | None) -> str | None:
    """The prefix cache's salt: the mode and the client's own. Salts of two modes are never equal.

    Prefix caching goes by tokens, not by positions, and so would take one mode's keys and values
    for the other's. An ordinary short request has none, and so vLLM's own hashes.
    """
    return f"{mode}:{own or ''}" if own or mode == "long" else None


def long_salt(salt: str | None) -> str:
    """The salt of a request in long mode, from its salt in either."""
    return _LONG + (salt or "").partition(":")[2]


def is_long(salt: str | None) -> bool:
    """Whether this salt was given to a request in long mode."""
    return salt is not None and salt.startswith(_LONG)
