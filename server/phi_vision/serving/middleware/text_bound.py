"""A lower bound on the number of tokens of a text, from its characters: far cheaper than tokenising it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_SPACE = "\u2581"  # stands for the space in the vocabulary
_BYTE_TOKEN = "<0x00>"
_CODE_POINTS = 0x110000


class TokenBound:
    """Never more than the true number of tokens.

    A token of n characters counts as 1/n for each of them. The longest token that contains a character gives
    the least it can count. A character that is in no token counts its UTF-8 bytes where the vocabulary has
    tokens for bytes, and nothing otherwise.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        longest: dict[str, int] = {}
        for token in vocabulary:
            for char in token:
                longest[char] = max(longest.get(char, 0), len(token))
        if _SPACE in longest:
            longest[" "] = max(longest.get(" ", 0), longest[_SPACE])
        costs = np.zeros(_CODE_POINTS, np.float32)
        if _BYTE_TOKEN in vocabulary:
            for nbytes, start, end in ((1, 0, 0x80), (2, 0x80, 0x800), (3, 0x800, 0x10000)):
                costs[start:end] = nbytes
            costs[0x10000:] = 4
        for char, length in longest.items():
            costs[ord(char)] = 1 / length
        self._costs = costs

    def at_least(self, text: str) -> int:
        """The bound for this text."""
        code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        return int(self._costs[code_points].sum(dtype=np.float64) * (1 - 1e-6))
