"""The container's files, read: no Docker engine is needed."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]


def test_what_is_compiled_at_the_start_outlives_the_container() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (volume,) = re.findall(r"^VOLUME (\S+)$", dockerfile, re.MULTILINE)
    for cache in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        (folder,) = re.findall(rf"{cache}=(\S+)", dockerfile)
        assert PurePosixPath(volume) in PurePosixPath(folder).parents
    (mounted,) = re.findall(r"--volume \S+:(\S+)", (ROOT / "Makefile").read_text())
    assert (
        mounted == volume == "/home/phi/.cache"
    )  # where the hub's files and FlashInfer's kernels go by default
