"""Memory of a server: sampled from outside, and what the server says it is for.

On a GPU, NVML's figure for the server's processes; else resident memory of the process tree. vLLM
reserves its KV cache at the start, so 'used' says little without the breakdown.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

GIB = 1 << 30
# vLLM's log lines, in GiB.
_LOGGED = {
    "weights_bytes": r"Model loading took ([\d.]+) GiB",
    "consumed_bytes": r"Actual usage is ([\d.]+) GiB for consumed memory",  # weights, and what is not torch's
    "activation_peak_bytes": r"([\d.]+) GiB for peak activation",
    "cuda_graph_bytes": r"([\d.]+) GiB for CUDAGraph memory",
    "kv_bytes": r"Available KV cache memory: ([\d.]+) GiB",
}


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty once it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident_bytes(pid: int) -> int:
    """Resident memory of a process tree. Pages that processes share are counted for each."""
    total = 0
    for process in process_tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class GpuMemory:
    """Used memory of the first visible GPU, from NVML."""

    def __init__(self) -> None:
        """Raises pynvml.NVMLError where there is none."""
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._device = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._before = pynvml.nvmlDeviceGetMemoryInfo(self._device).used

    def used_bytes(self, pid: int) -> int:
        """What a process tree holds; where NVML does not see process ids (containers), what came on top."""
        pids = {process.pid for process in process_tree(pid)}
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._device)
        own = [p.usedGpuMemory for p in running if p.pid in pids and p.usedGpuMemory]
        return sum(own) if own else self._nvml.nvmlDeviceGetMemoryInfo(self._device).used - self._before


class MemorySampler(threading.Thread):
    """Samples a server's memory until stopped; `steady` marks the end of its start."""

    def __init__(self, pid: int, *, gpu: bool, every_s: float = 0.5) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._gpu = GpuMemory() if gpu else None
        self._every_s = every_s
        self._stop_asked = threading.Event()
        self._steady_bytes: int | None = None
        self._peak_bytes = 0

    def run(self) -> None:
        """Sample."""
        while not self._stop_asked.wait(self._every_s):
            self._peak_bytes = max(self._peak_bytes, self._now())

    def mark_steady(self) -> None:
        """The server is ready and idle: what it holds now is what it always holds."""
        self._steady_bytes = self._now()

    def stop(self) -> dict[str, Any]:
        """End sampling: `kind`, `steady_bytes` (idle, after the start), `peak_bytes`."""
        self._stop_asked.set()
        if self.is_alive():
            self.join()
        kind = "gpu (NVML)" if self._gpu else "resident memory of the process tree"
        return {"kind": kind, "steady_bytes": self._steady_bytes, "peak_bytes": self._peak_bytes}

    def _now(self) -> int:
        return self._gpu.used_bytes(self._pid) if self._gpu else resident_bytes(self._pid)


def parse_memory_breakdown(log: str, metrics: str, checkpoint: str | None) -> dict[str, int | None]:
    """What the server itself says its memory is for, from its log and its `/metrics` page.

    Where the log does not name the weights (on a CPU), the size of the checkpoint's files stands in.

    Returns:
        `weights_bytes`, `consumed_bytes`, `activation_peak_bytes`, `cuda_graph_bytes`, `kv_bytes` and
        `kv_tokens`; None where the server does not say.
    """
    found: dict[str, int | None] = {}
    for name, pattern in _LOGGED.items():
        line = re.search(pattern, log)
        found[name] = round(float(line[1]) * GIB) if line else None
    folder = Path(checkpoint) if checkpoint else None
    if found["weights_bytes"] is None and folder is not None and folder.is_dir():
        found["weights_bytes"] = sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None
    labels = _kv_cache_labels(metrics)
    found["kv_tokens"] = _number(labels.get("kv_cache_size_tokens"))
    if (kv_bytes := _number(labels.get("kv_cache_memory_bytes"))) is not None:
        found["kv_bytes"] = kv_bytes
    return found


def _kv_cache_labels(metrics: str) -> dict[str, str]:
    """vLLM's settings of its KV cache, which are labels of a gauge."""
    for family in text_string_to_metric_families(metrics):
        if family.name == "vllm:cache_config_info" and family.samples:
            return family.samples[0].labels
    return {}


def _number(label: str | None) -> int | None:
    return None if label in (None, "None") else int(label)
