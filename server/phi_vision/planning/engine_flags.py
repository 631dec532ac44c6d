"""What the user gave to vLLM past us, as far as the memory plan must know it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from phi_vision.errors import UsageError


def given(arguments: Sequence[str], *flags: str) -> str | None:
    """The value of a flag under any of its names; the last one wins, as in vLLM."""
    value = None
    for i, argument in enumerate(arguments):
        name, equals, rest = argument.partition("=")
        if name in flags:
            value = rest if equals else arguments[i + 1] if i + 1 < len(arguments) else None
    return value


def given_count(arguments: Sequence[str], flag: str) -> int | None:
    """The value of a flag that counts something.

    Raises:
        UsageError: it is not a plain positive number.
    """
    value = given(arguments, flag)
    if value is None:
        return None
    if not value.isdigit() or value == "0":
        raise UsageError(f"{flag} must be a plain positive number here, not {value}")
    return int(value)


def given_gib(arguments: Sequence[str], flag: str) -> float | None:
    """The value of a flag in GiB.

    Raises:
        UsageError: it is not a number.
    """
    value = given(arguments, flag)
    try:
        return None if value is None else float(value)
    except ValueError:
        raise UsageError(f"{flag} must be a number of GiB, not {value}") from None


def cpu_kv_cache_gib() -> int | None:
    """The KV cache of a CPU, `VLLM_CPU_KVCACHE_SPACE` in the environment.

    Raises:
        UsageError: it is not whole GiB.
    """
    space = os.environ.get("VLLM_CPU_KVCACHE_SPACE")
    if not space:
        return None
    if not space.isdigit():
        raise UsageError(f"VLLM_CPU_KVCACHE_SPACE must be whole GiB, not {space!r}")
    return int(space)
