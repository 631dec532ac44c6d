"""The limit of open files: each connection, child process and file takes a descriptor."""

from __future__ import annotations

import contextlib
import resource

import psutil

_WANTED = 65_535


def raise_limit() -> None:
    """Raise the limit as far as the system allows; vLLM leaves it where it cannot have all that it wants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than the hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def count_free() -> int:
    """How many more descriptors can be opened."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = _WANTED
    return max(0, soft - psutil.Process().num_fds())
