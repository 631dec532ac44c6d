"""The front ends of `front_end` as processes: started with the code of a checkout, and what they take."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phi_vision.client.process import ServerProcess

from benchmarks.harness.servers import free_port
from benchmarks.studies import _front_end_server
from benchmarks.studies._front_end_requests import Requests, post_all
from benchmarks.studies._front_end_server import ROOT

_WORKER = "phi_vision.media.worker"  # on the command line of a picture worker


@dataclass(frozen=True)
class Setting:
    """A front end that is measured."""

    variant: str  # ours, before or stock
    checkout: Path = ROOT
    api_processes: int = 1
    workers: int = 1  # picture workers of each API process; of stock vLLM, threads


@dataclass(frozen=True)
class Measured:
    """What some requests took: pictures a second, and processor time in ms a picture."""

    pictures_per_s: float
    api_ms: float  # of the API processes
    worker_ms: float  # of the picture workers
    client_ms: float


class FrontEnd(ServerProcess):
    """A front end in a process of its own, with the code and the plugins of a checkout."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        port = free_port()
        checkout = setting.checkout
        paths = [_entry_points(checkout, folder / "installed"), checkout / "server"]
        env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        if setting.variant == "stock":
            paths += [ROOT, ROOT / "benchmarks" / "vllm_plugins"]
            env["VLLM_PLUGINS"] = "benchmark_stock_model"
            env["VLLM_MEDIA_LOADING_THREAD_COUNT"] = str(setting.workers)
        env["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        processes = (str(setting.api_processes), str(setting.workers))
        program = (sys.executable, _front_end_server.__file__)
        command = [*program, setting.variant, *processes, str(folder), str(port)]
        super().__init__(command, folder / "log.txt", env=env, port=port, ready_path="/health")

    def cpu_seconds(self) -> tuple[float, float]:
        """Processor time so far: of all processes that are no picture workers, and of those."""
        import psutil

        seconds = [0.0, 0.0]
        process = psutil.Process(self.process.pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                seconds[_WORKER in each.cmdline()] += times.user + times.system
        return seconds[0], seconds[1]


@contextlib.contextmanager
def running(setting: Setting) -> Iterator[FrontEnd]:
    """A front end that answers."""
    with (
        tempfile.TemporaryDirectory(prefix="front-end-") as folder,
        FrontEnd(setting, Path(folder)) as server,
    ):
        server.wait_until_ready()
        yield server


def measure(server: FrontEnd, requests: Requests, count: int, concurrency: int) -> Measured:
    """Send `count` requests, `concurrency` at a time, after as many as that to warm up."""
    post_all(server.port, requests, concurrency, concurrency)
    api_s, worker_s = server.cpu_seconds()
    client_s = time.process_time()
    elapsed_s = post_all(server.port, requests, count, concurrency)
    client_s = time.process_time() - client_s
    ends = server.cpu_seconds()
    costs = (ends[0] - api_s, ends[1] - worker_s, client_s)
    return Measured(count / elapsed_s, *(1000 * seconds / count for seconds in costs))


def _entry_points(checkout: Path, folder: Path) -> Path:
    """A folder that has vLLM load the plugins of this checkout, whatever the environment has installed."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    metadata = folder / f"phi_vision-{project.get('version', '0')}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: phi-vision\nVersion: {project.get('version', '0')}\n"
    )
    groups = project["entry-points"].items()
    (metadata / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in targets.items())
            for group, targets in groups
        )
    )
    return folder
