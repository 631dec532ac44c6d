"""Which of LongRoPE's two sets of factors a request gets: the decision alone, no vLLM.

The model has short factors for sequences of up to 4,096 tokens and long ones beyond. A request
keeps its mode for life, so it is decided before the request starts, from what it may become.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeMode = Literal["short", "long"]

SHORT_WINDOW = 4096  # tokens of a sequence, `original_max_position_embeddings`
# Tokens. Where nobody asked for an answer's length, it ends with the window rather than take the
# whole request to the long factors; but an answer cut to less than this would too often be cut.
SHORT_ROOM = 512

HEADER = "x-phi-vision-rope"

# How the mode travels to the model: a short request carries an empty item of this modality. A
# request without one is long, which is what vLLM itself would make of it.
SHORT_MARK = "rope_short"


@dataclass(frozen=True)
class RopePlan:
    """The mode of one request, and how long its answer may be (tokens)."""

    mode: RopeMode
    max_tokens: int


def plan(prompt_tokens: int, max_tokens: int, *, asked: bool, min_tokens: int = 0) -> RopePlan:
    """Decide for one request.

    Args:
        prompt_tokens: length of the prompt, image tokens included.
        max_tokens: longest answer, as asked for or by default.
        asked: the client set `max_tokens`; if not, it may be cut to stay in the window.
        min_tokens: shortest answer the client wants.
    """
    room = SHORT_WINDOW - prompt_tokens
    if max_tokens <= room:
        return RopePlan("short", max_tokens)
    if not asked and room >= max(SHORT_ROOM, min_tokens):
        return RopePlan("short", room)
    return RopePlan("long", max_tokens)


def cache_salt(mode: RopeMode, own: str | None) -> str:
    """The prefix cache's salt: the mode and the client's own. Keys of two modes are never equal.

    Prefix caching goes by tokens, not by positions, and so would take one mode's keys and values
    for the other's.
    """
    return f"rope-{mode}:{own or ''}"
