"""What came of reading a page once, and which of several readings is the best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from phi_vision.documents.answers import Answer, Status, Token, cut, status_of
from phi_vision.documents.commentary import page_span
from phi_vision.documents.confidence import of_tokens
from phi_vision.documents.loops import find_loop

LOW_CONFIDENCE = 0.95
"""Below this average a page is in doubt. Chosen with the demo model, whose upright pages are above."""

SHORT_TOKENS = 8
LOW_CONFIDENCE_SHORT = 0.98
"""The bound for a text of fewer tokens than that: a few letters upside down may pass for others."""

REFUSALS = frozenset(
    {
        "i cannot read it",
        "i cannot read the text",
        "i cannot read this",
        "i do not know",
        "i don't know",
        "the text is not legible",
        "the text is too small to read",
        "too small to read",
    }
)
"""Answers that say that the page could not be read.

A model may be quite sure of such an answer, so its confidence says nothing about the page. The answer counts
as failed if it is nothing else, so that the page is tried again, turned or in parts. A page that holds only
such a sentence is lost to this rule; its text is still in `PageResult.raw_text`.
"""

_ORDER: tuple[Status, ...] = ("failed", "repetition", "truncated", "blank", "complete")


@dataclass(frozen=True)
class Reading:
    """A text and how sure it is.

    Args:
        text: of the page, without commentary and loops.
        raw_text: as it was answered.
        status: of `text`.
        tokens: placed in `text`.
        prompt_tokens: of the request.
        completion_tokens: of the answer.
    """

    text: str
    raw_text: str
    status: Status
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def confidence(self) -> float | None:
        """Average of the tokens; None where there are none."""
        found = of_tokens(self.tokens)
        return None if found is None else found.average

    @property
    def is_unsure(self) -> bool:
        """Whether another look may find something else: it was not read, or not with confidence."""
        bound = LOW_CONFIDENCE_SHORT if len(self.tokens) < SHORT_TOKENS else LOW_CONFIDENCE
        return self.status in ("failed", "repetition") or (self.confidence or 0.0) < bound

    @property
    def rank(self) -> tuple[int, float]:
        """Larger is better."""
        return _ORDER.index(self.status), self.confidence or 0.0


MISSING = Reading("", "", "failed")
"""A part of a page that was not read."""


def reading_of(answer: Answer) -> Reading:
    """What an answer says of the page."""
    start, stop = page_span(answer.text)
    status = status_of(answer)
    if status in ("repetition", "truncated") and (loop := find_loop(answer.text[start:stop])) is not None:
        status, stop = "repetition", start + loop
    if is_refusal(answer.text[start:stop]):
        status, stop = "failed", start
    text = answer.text[start:stop].rstrip()
    tokens = tuple(cut(answer.tokens, start, start + len(text)))
    return Reading(text, answer.text, status, tokens, answer.prompt_tokens, answer.completion_tokens)


def joined(parts: Sequence[Reading]) -> Reading:
    """The readings of a page's parts, at least one, joined with newlines; empty parts leave none."""
    tokens: list[Token] = []
    length = 0
    texts = [part for part in parts if part.text]
    for part in texts:
        tokens += (replace(token, start=token.start + length) for token in part.tokens)
        length += len(part.text) + 1
    status: Status = min((part.status for part in parts), key=_ORDER.index)
    if status == "failed" and texts:
        status = "truncated"  # a part of the page is missing
    return Reading(
        "\n".join(part.text for part in texts),
        "\n".join(part.raw_text for part in parts),
        status,
        tuple(tokens),
        sum(part.prompt_tokens for part in parts),
        sum(part.completion_tokens for part in parts),
    )


def is_refusal(text: str) -> bool:
    """Whether an answer is nothing but a sentence of `REFUSALS`."""
    return re.sub(r"\s+", " ", text).strip(" .!\n").lower().replace("\u2019", "'") in REFUSALS
