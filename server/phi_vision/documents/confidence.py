"""How sure the model was, from the log-probabilities of its tokens, by the rules of Mistral's OCR API.

Confidence says how sure the model was, not that it is right; `benchmarks/README.md` shows the two side by
side.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from phi_vision.documents.answers import Token


@dataclass(frozen=True)
class Confidence:
    """Of a page, each from 0 to 1."""

    average: float
    minimum: float


@dataclass(frozen=True)
class WordConfidence:
    """Of a word: the geometric mean over the tokens that have a part of it."""

    text: str
    confidence: float  # 0 to 1
    start_index: int  # in the page's text, in characters


def of_tokens(tokens: Sequence[Token]) -> Confidence | None:
    """Average and minimum of the tokens' probabilities; None without tokens."""
    return _summary([math.exp(token.logprob) for token in tokens])


def of_words(words: Sequence[WordConfidence]) -> Confidence | None:
    """Average and minimum of the words' confidences; None without words."""
    return _summary([word.confidence for word in words])


def words(text: str, tokens: Sequence[Token]) -> list[WordConfidence]:
    """The words of a text: what stands between spaces. A word without tokens is left out.

    Args:
        text: of the page.
        tokens: placed in `text`, in its order.
    """
    starts = [token.start for token in tokens]
    ends = [token.start + max(1, len(token.text)) for token in tokens]
    found = []
    for word in re.finditer(r"\S+", text):
        own = tokens[bisect_right(ends, word.start()) : bisect_left(starts, word.end())]
        if own:
            mean = math.exp(fmean(token.logprob for token in own))
            found.append(WordConfidence(word[0], mean, word.start()))
    return found


def _summary(values: Sequence[float]) -> Confidence | None:
    return Confidence(fmean(values), min(values)) if values else None
