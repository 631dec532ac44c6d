"""Memory of a server: sampled from outside, and split by its own account.

On a GPU, NVML's figure for the server's processes; else resident memory of the process tree. vLLM
reserves its KV cache at the start, so 'used' says little by itself: the account says what it is for.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import psutil

GIB = 1 << 30
# vLLM's log lines, in GiB.
_LOGGED = {
    "weights_bytes": r"Model loading took ([\d.]+) GiB",
    "activation_peak_bytes": r"([\d.]+) GiB for peak activation",
    "cuda_graph_bytes": r"([\d.]+) GiB for CUDAGraph memory",
}
_KV_SETTINGS = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty once it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident_bytes(pid: int) -> int:
    """Resident memory of a process tree. Pages that processes share are counted for each."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class GpuMemory:
    """NVML's account of the first visible GPU."""

    def __init__(self) -> None:
        """Raises pynvml.NVMLError where there is none."""
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._device = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._before = pynvml.nvmlDeviceGetMemoryInfo(self._device).used

    def used_bytes(self, pid: int) -> int:
        """What a process tree holds; where NVML does not see process ids (containers), what came on top."""
        pids = {process.pid for process in tree(pid)}
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


def own_account(log: str, metrics: str, checkpoint: str | None) -> dict[str, Any]:
    """The server's own split of its memory, from its log and its `/metrics` page.

    Where the log does not name the weights (on a CPU), the size of the checkpoint's files stands in.
    A figure that the server does not give is None.
    """
    account: dict[str, Any] = {}
    for name, pattern in _LOGGED.items():
        found = re.search(pattern, log)
        account[name] = round(float(found[1]) * GIB) if found else None
    folder = Path(checkpoint) if checkpoint else None
    if account["weights_bytes"] is None and folder is not None and folder.is_dir():
        account["weights_bytes"] = sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None
    settings = _KV_SETTINGS.search(metrics)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', settings[1])) if settings else {}
    kv_tokens = labels.get("kv_cache_size_tokens", "None")
    kv_bytes = labels.get("kv_cache_memory_bytes", "None")
    found = re.search(r"Available KV cache memory: ([\d.]+) GiB", log)
    account["kv_tokens"] = int(kv_tokens) if kv_tokens != "None" else None
    account["kv_bytes"] = int(kv_bytes) if kv_bytes != "None" else found and round(float(found[1]) * GIB)
    return account
