"""The folder that the GPU machine gets: this checkout's benchmarks and an environment without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.machine import git_state, now
from benchmarks.harness.servers import ROOT

LEFT_OUT = Path(__file__).with_name("left_out.txt")
_CONSTRAINTS = ROOT / "server" / "constraints" / "cuda.txt"
_PLATFORM = "x86_64-manylinux_2_31"  # the newest C library that a wheel asks for: llguidance's
_BESIDE_VLLM = ("nvidia-ml-py",)  # the report reads NVML; else it comes with FlashInfer

# Files of vLLM's wheel, of 800 MB, and why this model runs without them.
_LEFT_OUT_OF_VLLM: Mapping[str, str] = {
    "vllm-rs": "another front end, which phi-vision does not start",
    "_deepselect_C*": "sparse attention of DeepSeek's models",
    "_flashkda_C*": "linear attention of Kimi's models",
    "_flashmla_C*": "attention of DeepSeek's models",
    "_flashmla_extension_C*": "the same",
    "_moe_C*": "mixtures of experts",
    "_qutlass_C*": "FP4 weights with Hadamard transforms",
    "third_party/deep_gemm": "FP8 products that nvcc compiles; vLLM has other kernels for them",
    "third_party/fmha_sm100": "sparse attention on Blackwell",
}
_FLASH_ATTENTION_2 = "vllm_flash_attn/_vllm_fa2_C*"  # vLLM takes version 3 on Hopper, this on all other GPUs

# Of this checkout, as git lists them. phi-vision itself is installed.
_SOURCES = ("benchmarks", "tests/__init__.py", "tests/images", "tests/support")
_NOT_SOURCES = (":!benchmarks/results",)

_COMMAND = """#!/bin/sh
# The GPU report of this folder, in its environment: no module of another folder is seen.
here=$(cd "$(dirname "$0")" && pwd) || exit
export PYTHONPATH="$here"
export VLLM_USE_FLASHINFER_SAMPLER=0  # FlashInfer is not here, and vLLM takes it for granted
export HF_HUB_OFFLINE=1  # nothing is to be fetched
exec "$here/.venv/bin/python" -P -m benchmarks.gpu_report "$@"
"""


def assemble(folder: Path, python: str, *, flash_attention_2: bool) -> None:
    """Fill an empty folder.

    Args:
        folder: becomes what `unpack` lays down.
        python: version of the GPU machine's, such as "3.12".
        flash_attention_2: for GPUs other than Hopper.

    Raises:
        CalledProcessError: a package cannot be had; uv has said why.
    """
    site = folder / ".venv" / "lib" / f"python{python}" / "site-packages"
    _install(site, python)
    left_out = [*_LEFT_OUT_OF_VLLM, *([] if flash_attention_2 else [_FLASH_ATTENTION_2])]
    remove(site / "vllm", left_out)
    remove(site, ["bin"])  # commands with this machine's paths
    copy_sources(ROOT, folder)
    command = folder / "gpu-report"
    command.write_text(_COMMAND)
    command.chmod(0o755)
    # Where `git_state` looks: there is no repository on the other machine.
    (folder / "packed.json").write_text(json.dumps({"packed": now(), "git": git_state()}) + "\n")


def _install(site: Path, python: str) -> None:
    """phi-vision with vLLM's CUDA build and what both need, in the versions of the constraints."""
    uv = Path(sys.executable).with_name("uv")
    command = [
        *(str(uv), "pip", "install", "--target", str(site)),
        *("--python", sys.executable, "--no-python-downloads"),  # it only builds phi-vision's own wheel
        *("--python-version", python, "--python-platform", _PLATFORM),
        *("--only-binary", ":all:", "--no-binary", "phi-vision"),
        *("--refresh-package", "phi-vision"),  # uv would take the wheel of an earlier run
        *("--constraints", str(_CONSTRAINTS), "--excludes", str(LEFT_OUT)),
        *(f"{ROOT}[cuda]", *_BESIDE_VLLM),
    ]
    subprocess.run(command, check=True)


def remove(folder: Path, patterns: list[str]) -> None:
    """Delete what matches.

    Raises:
        ValueError: nothing does: the pattern is out of date.
    """
    for pattern in patterns:
        found = list(folder.glob(pattern))
        if not found:
            raise ValueError(f"nothing in {folder.name} is named {pattern}")
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def copy_sources(repository: Path, folder: Path) -> None:
    """What of this checkout the report runs, as it is now, changes included."""
    command = ["git", "-C", str(repository), "ls-files", "-z", "--", *_SOURCES, *_NOT_SOURCES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, target)
