"""The cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA_V2 = "/sys/fs/cgroup/cpu.max"  # "400000 100000": microseconds in each period; or "max 100000"
_QUOTA_V1 = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")  # quota -1: none


def own_cores() -> list[int]:
    """Those that the system lets this process run on, by number."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count_cores() -> int:
    """How many these are, at most those that a container's quota is worth."""
    cores, quota = len(own_cores()), _quota_cores()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota_cores() -> float | None:
    """What a container's quota of processor time is worth (cgroups, version 2 or 1); None: there is none."""
    for paths in ((_QUOTA_V2,), _QUOTA_V1):
        try:
            quota, period = " ".join(Path(path).read_text() for path in paths).split()
            share = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
            continue
        if share > 0:
            return share
    return None
