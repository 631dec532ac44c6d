"""A Ray cluster of this machine, in a process of its own; it ends with that.

    python -m tests.support.ray_cluster

prints the address of its head and waits for the end of its stdin.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

NUM_CPUS = 2


@contextmanager
def running_cluster() -> Iterator[str]:
    """Its address."""
    command = [sys.executable, "-m", "tests.support.ray_cluster"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def connected_processes(port: int) -> list[psutil.Process]:
    """Workers of a cluster that have a connection to this port of the machine."""
    pids = {
        each.pid
        for each in psutil.net_connections("tcp")
        if each.raddr and each.raddr.port == port and each.pid and each.status == psutil.CONN_ESTABLISHED
    }
    return [process for process in map(psutil.Process, pids) if process.name().startswith("ray::")]


def main() -> None:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    import ray

    ray.init(
        "local", num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
