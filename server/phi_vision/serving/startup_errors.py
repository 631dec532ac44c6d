"""Why the engine did not start, as one line with a remedy instead of tracebacks of three processes.

The cause comes from the engine's process, see `vllm_compat.start_cause`. `--log-level debug` keeps the
tracebacks.
"""

from __future__ import annotations

import re
from pathlib import Path

from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.planning import toolchain
from phi_vision.planning.hardware import DRIVER_REMEDY

_MAX_CHARS = 600

# Pattern of a cause that the user can remedy -> the remedy. The first match counts.
_REMEDIES = (
    (
        r"backend \S+ is not valid",
        "leave out --attention-backend: those kernels cannot run with the other settings",
    ),
    # Before the driver: the compiler's command line names libcuda too.
    (r"C compiler|Python\.h|CalledProcessError: .*\.c'", toolchain.REMEDY),
    (r"nvcc", f"set VLLM_USE_FLASHINFER_SAMPLER=0; FlashInfer's sampler needs {toolchain.FLASHINFER_NEEDS}"),
    (r"NVIDIA driver|CUDA driver|no CUDA|libcuda", f"the NVIDIA driver must be {DRIVER_REMEDY}"),
    (
        r"out of memory|OutOfMemory|MemoryError|[Cc]annot allocate memory|No available memory|exit code -9"
        r"|Free memory on device",
        "not enough memory: lower --max-model-len, or free memory that other programs hold",
    ),
    (r"KV cache|max_model_len|max seq len", "lower --max-model-len"),
    (
        r"No space left on device|Disk quota",
        "the disk is full: free some space, or set HF_HOME",
    ),
    (
        # Only messages of the loader: other errors mention weights too (a quantization, a kernel, a layout).
        r"SafetensorError|No such file or directory: .*\.safetensors"
        r"|weights were not initialized from|Cannot find any model weights",
        "the weights are incomplete or damaged: download them again",
    ),
    (
        r"huggingface\.co|offline mode|Repository Not Found|gated repo",
        "the hub does not give the model: check its name, the network and HF_TOKEN, or name a folder",
    ),
)


def diagnose(error: BaseException, cause_path: Path) -> PhiVisionError:
    """Turn the error that ended vLLM's server into one of ours, with its cause and a remedy.

    Args:
        error: what vLLM raised.
        cause_path: where the engine's process wrote why it failed; the file need not exist.

    Returns:
        A `UsageError` where the user can remedy the cause.
    """
    if died := re.fullmatch(r"(?:Process|Engine core process) (\w+) .*?(died .*?)\.?", str(error)):
        return PhiVisionError(f"the process {died[1]} {died[2]}; its last words stand above. Start again")
    cause = cause_path.read_text() if cause_path.exists() else f"{type(error).__name__}: {error}"
    if killed := re.search(r"Failed core proc\(s\): .*?: -(\d+)", cause):
        cause = f"the engine's process was killed (exit code -{killed[1]})"
    line = " ".join(cause.split())[:_MAX_CHARS]
    what = "the engine did not start" if "Engine core init" in str(error) else "the server ended"
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, line):
            return UsageError(f"{what}: {remedy} ({line})")
    return PhiVisionError(f"{what}: {line}; --log-level debug tells more")
