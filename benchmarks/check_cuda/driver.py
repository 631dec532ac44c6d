"""A CUDA driver without a device: vLLM's extensions are linked with `libcuda.so.1` and need one to load."""

from __future__ import annotations

import subprocess
from pathlib import Path

# What the extensions take from it. None of it is called before a kernel runs.
_FUNCTIONS = ("cuGetProcAddress_v2", "cuPointerGetAttribute", "cuTensorMapEncodeTiled")
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def build_driver(folder: Path) -> None:
    """Put it into this folder, for `LD_LIBRARY_PATH`."""
    source = folder / "libcuda.c"
    source.write_text("".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _FUNCTIONS))
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
