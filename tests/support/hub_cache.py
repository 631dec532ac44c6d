"""A Hugging Face cache as the hub's client lays it out: contents by digest, snapshots that link to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import _tree_cache  # its own listing, so that ours reads what it writes
from phi_vision.planning.checkpoint import DEMO_FOLDER

HUB_ID = "someone/phi-like"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tensors(num_bytes: int) -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    header = {"a": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + bytes(num_bytes)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDED: Mapping[str, bytes] = {
    "config.json": (DEMO_FOLDER / "config.json").read_bytes(),
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": FIRST, "b": SECOND}}).encode(),
    FIRST: tensors(1000),
    SECOND: tensors(500),
    "tokenizer.json": b"{}",
    "README.md": b"# Not needed",
    "modeling.py": b"raise SystemExit",
}


def digest(name: str, content: bytes) -> str:
    """As the hub tells it: of weights the sha256, of others git's id."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def fill(
    cache: Path, files: Mapping[str, bytes] = SHARDED, *, listed: bool = True, hub_id: str = HUB_ID
) -> Path:
    """Put a repository into `cache`, the folder that HF_HUB_CACHE names; its snapshot's folder."""
    storage = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    for folder in (storage / "blobs", storage / "refs", snapshot):
        folder.mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    entries: dict[str, Any] = {}
    for name, content in files.items():
        of_file = digest(name, content)
        (storage / "blobs" / of_file).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{of_file}")
        in_lfs: dict[str, Any] = (
            {"lfs_sha256": of_file, "lfs_size": len(content)} if len(of_file) == 64 else {}
        )
        entries[name] = _tree_cache.TreeCacheEntry(len(content), "0" * 40 if in_lfs else of_file, **in_lfs)
    if listed:
        _tree_cache.write_tree_cache(str(storage), COMMIT, entries)
    return snapshot
