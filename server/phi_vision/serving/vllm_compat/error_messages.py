"""Bound the messages of vLLM's errors.

Symptom: one body of 20 kB (`"model": "/a/a/a..."`) kept the whole server silent for two minutes, and a
`logit_bias` outside the vocabulary was answered with 3.6 MB.
Cause: a message repeats what the client sent, and vLLM's `sanitize_message` looks for file paths in it with
a regular expression whose time grows faster than the square of the length.
Can go: when vLLM bounds its messages itself.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from vllm.entrypoints.serve.exception_handling import utils

MAX_CHARS = 1000


@functools.cache
def install() -> None:
    """For all routes of this process: also in modules that have already imported the function by name."""
    original = utils.sanitize_message
    limited = bounded(original)
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and vars(module).get("sanitize_message") is original:
            module.sanitize_message = limited  # type: ignore[attr-defined]


def bounded(sanitize: Callable[[str], str]) -> Callable[[str], str]:
    """`sanitize`, applied to the first `MAX_CHARS` of a message; a longer one is cut, with its length."""

    @functools.wraps(sanitize)
    def sanitize_start(message: str) -> str:
        if len(message) <= MAX_CHARS:
            return sanitize(message)
        return f"{sanitize(message[:MAX_CHARS])}... ({len(message)} characters)"

    return sanitize_start
