"""Bound the messages of vLLM's errors.

Symptom: one body of 20 kB (`"model": "/a/a/a..."`) kept the whole server silent for two minutes, and a
`logit_bias` out of the vocabulary was answered with 3.6 MB.
Cause: a message repeats what the client sent, and vLLM's `sanitize_message` looks for file paths in it with
a regular expression whose time grows faster than the square of the length.
Can go: when vLLM bounds its messages itself.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

MAX_CHARS = 1000

# They import the function by name.
_USERS = (
    "vllm.entrypoints.serve.exception_handling.utils",
    "vllm.entrypoints.serve.exception_handling.error_response",
    "vllm.entrypoints.serve.exception_handling.handlers.http",
    "vllm.entrypoints.serve.exception_handling.handlers.validation",
    "vllm.entrypoints.anthropic.serving",
)


@functools.cache
def install() -> None:
    """For all routes of this process."""
    for name in _USERS:
        module: Any = importlib.import_module(name)
        module.sanitize_message = bounded(module.sanitize_message)


def bounded(sanitize: Callable[[str], str]) -> Callable[[str], str]:
    """The same for the first `MAX_CHARS` of a message, which says when it was longer."""

    @functools.wraps(sanitize)
    def sanitize_start(message: str) -> str:
        if len(message) <= MAX_CHARS:
            return sanitize(message)
        return f"{sanitize(message[:MAX_CHARS])}... ({len(message)} characters)"

    return sanitize_start
