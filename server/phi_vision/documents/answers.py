"""An answer of the engine: its text, its tokens in place, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

Status = Literal["complete", "truncated", "repetition", "blank", "failed"]
"""What can be said of a page's text.

`complete`: the model ended it. `truncated`: it reached its limit of tokens. `repetition`: it ran in a loop,
which is cut. `blank`: nothing is on the page, the model was not asked. `failed`: no text could be had.
"""

ENDS: Mapping[str, Status] = {
    "stop": "complete",
    "tool_calls": "complete",
    "length": "truncated",
    "repetition": "repetition",
}
"""The status by why an answer ended, in vLLM's words."""


@dataclass(frozen=True)
class Token:
    """A token of an answer.

    Args:
        text: as it stands there; empty for a part of a character.
        logprob: its natural logarithm of probability, before any temperature.
        start: where it begins, in characters.
    """

    text: str
    logprob: float
    start: int


@dataclass(frozen=True)
class Answer:
    """What the engine answered to one request.

    Args:
        text: without special tokens.
        tokens: those that are in the text; empty where log-probabilities were not asked for.
        finish_reason: vLLM's: stop, length, repetition, abort, error.
        prompt_tokens: of the prompt, pictures included.
        completion_tokens: of the answer, the one that ends it included.
    """

    text: str
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def from_logprobs(
        cls,
        text: str,
        logprobs: Iterable[tuple[str, float]],
        *,
        finish_reason: str | None,
        prompt_tokens: int,
        completion_tokens: int,
    ) -> Self:
        """From the chat API's `logprobs.content`, as pairs of token text and log-probability."""
        tokens = tuple(_placed(text, logprobs))
        return cls(text, tokens, finish_reason or "stop", prompt_tokens, completion_tokens)


def status_of(answer: Answer) -> Status:
    """How the answer ended. An end that is not known is a failure."""
    return ENDS.get(answer.finish_reason, "failed")


def cut(tokens: Iterable[Token], start: int, stop: int) -> list[Token]:
    """The tokens of `text[start:stop]`, placed in it. One that reaches across an end is cut there."""
    found = []
    for token in tokens:
        left, right = max(token.start, start), min(token.start + len(token.text), stop)
        if left < right or (not token.text and start <= token.start < stop):
            text = token.text[left - token.start : max(left, right) - token.start]
            found.append(replace(token, text=text, start=left - start))
    return found


def _placed(text: str, logprobs: Iterable[tuple[str, float]]) -> Iterable[Token]:
    """The tokens that are in the text, in its order.

    Tokens are decoded one by one, so a tokenizer of SentencePiece's kind loses the space in front of each
    word, and the special token that ends the answer is among them. A token is looked for where the last one
    ended, spaces and tokens that were not found skipped.
    """
    position = skipped = 0
    for piece, logprob in logprobs:
        spaces = len(text) - position - len(text[position:].lstrip())
        found = text.find(piece, position, position + spaces + skipped + len(piece))
        if found < 0:
            skipped += len(piece)
            continue
        yield Token(piece, logprob, found)
        position, skipped = found + len(piece), 0
