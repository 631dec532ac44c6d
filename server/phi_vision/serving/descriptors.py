"""File descriptors of this process: each connection, each child and each open file takes one."""

from __future__ import annotations

import contextlib
import os
import resource

_WANTED = 65_535


def raise_limit() -> None:
    """As far as the system allows; vLLM's own attempt gives up where that is below what it wants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower bound of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def count_free() -> int:
    """How many more can be opened."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = _WANTED
    return max(0, soft - len(os.listdir("/dev/fd")))
