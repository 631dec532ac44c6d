"""A checkpoint on this disk: which of its files are there, and whether they are whole. Asks no hub.

What a repository holds is known from the listing that the hub's client keeps beside a download; without one,
from the weights' own index and names. The cache names contents by their digest, so that they can be checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

INDEX = "model.safetensors.index.json"

_NEEDED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_HEADER_BYTES = 100_000_000  # as safetensors itself allows
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Listed:
    """What a listing says of a file.

    Args:
        size_bytes: None if the listing does not say.
        digest: its sha256 for files in LFS, which weights are; for others the id that git gives the content.
    """

    size_bytes: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class CheckpointFile:
    """A file that a server needs.

    Args:
        name: in the repository.
        path: where it lies, or would lie.
        size_bytes: how long it must be; None if nobody says.
        present_bytes: how long it is; 0 if it is not there.
        digest: see `Listed`.
        fault: what is wrong with it, in a few words; None if nothing is.
    """

    name: str
    path: Path
    size_bytes: int | None
    present_bytes: int
    digest: str | None
    fault: str | None


@dataclass(frozen=True)
class CachedWeights:
    """The files of a checkpoint that a server needs, as far as they are known.

    Args:
        folder: where they lie; None where nothing is cached.
        files: those that are known to belong to it.
    """

    folder: Path | None
    files: tuple[CheckpointFile, ...] = ()

    @property
    def faulty(self) -> list[CheckpointFile]:
        """What is missing or has the wrong size."""
        return [file for file in self.files if file.fault]

    @property
    def is_whole(self) -> bool:
        """Whether a server can start from it; contents are not looked at, see `find_corrupt`."""
        names = [file.name for file in self.files]
        has_weights = any(name.endswith(".safetensors") for name in names)
        return "config.json" in names and has_weights and not self.faulty

    @property
    def present_bytes(self) -> int:
        """What is there."""
        return sum(file.present_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int | None:
        """What must still be downloaded; None where the size of something is not known."""
        sizes = [file.size_bytes for file in self.faulty]
        known = [size for size in sizes if size is not None]
        return sum(known) if self.files and len(known) == len(sizes) else None


def cache_folder() -> Path:
    """Where the hub's client keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def storage_folder(hub_id: str) -> Path:
    """Where in the cache a repository lies: `blobs` by digest, `snapshots` by commit that link to them."""
    return cache_folder() / f"models--{hub_id.replace('/', '--')}"


def hasher(digest: str, size_bytes: int) -> hashlib._Hash:
    """What makes a digest like this one of a file's content: a sha256, or a file's id in git."""
    if len(digest) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


def free_bytes(path: Path) -> int:
    """What can still be written at `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def is_needed(name: str) -> bool:
    """Whether a server needs this file of a repository: weights, configs, tokenizer; none of its programs."""
    return "/" not in name and PurePosixPath(name).suffix in _NEEDED_SUFFIXES


def inspect_cache(hub_id: str, revision: str | None = None) -> CachedWeights:
    """What the cache holds of a repository.

    Args:
        hub_id: as `owner/name`.
        revision: a branch, tag or commit; default the main branch as it was last seen.
    """
    storage = storage_folder(hub_id)
    commit = revision or "main"
    with contextlib.suppress(OSError):  # a commit, or nothing was downloaded
        commit = (storage / "refs" / commit).read_text().strip()
    folder = storage / "snapshots" / commit
    if not folder.is_dir():
        return CachedWeights(None)
    return inspect_folder(folder, _listing(storage / "trees" / f"{commit}.json"))


def inspect_folder(folder: Path, listing: Mapping[str, Listed] | None = None) -> CachedWeights:
    """What a folder holds of a checkpoint.

    Args:
        folder: a snapshot in the cache, or any other.
        listing: all files of the repository; default what the folder's own files name.
    """
    if listing is None:
        listing = dict.fromkeys(_named_by_itself(folder), Listed())
    needed = sorted(name for name in listing if is_needed(name))
    return CachedWeights(folder, tuple(_inspected(folder, name, listing[name]) for name in needed))


def find_corrupt(
    weights: CachedWeights, on_read: Callable[[int], None] = lambda _: None
) -> Iterator[CheckpointFile]:
    """The files whose content is not what its digest says. Reads them all, which takes seconds for each 5 GB.

    Args:
        weights: to be checked; files that are missing, or without a known digest, are passed over.
        on_read: called with the number of bytes that were read, again and again.

    Raises:
        OSError: a file cannot be read.
    """
    for file in weights.files:
        if file.digest and not file.fault and _digest(file.path, file.digest, on_read) != file.digest:
            yield file


def _inspected(folder: Path, name: str, listed: Listed) -> CheckpointFile:
    path = folder / name
    present_bytes = path.stat().st_size if path.is_file() else 0
    size_bytes, fault = listed.size_bytes, None
    if not path.is_file():
        fault = "missing"
    elif name == INDEX and _in_index(path) is None:
        fault = "not an index of weights"
    elif size_bytes is None and name.endswith(".safetensors"):
        size_bytes = _safetensors_bytes(path)
        if size_bytes is None:
            fault = "not a safetensors file"
    if fault is None and size_bytes is not None and present_bytes != size_bytes:
        fault = f"incomplete: {present_bytes} of {size_bytes} bytes"
    return CheckpointFile(name, path, size_bytes, present_bytes, listed.digest or _blob(path), fault)


def _blob(path: Path) -> str | None:
    """The digest by which the cache names the content behind a snapshot's link."""
    name = PurePosixPath(os.readlink(path)).name if path.is_symlink() else ""
    return name if _DIGEST.fullmatch(name) else None


def _named_by_itself(folder: Path) -> set[str]:
    """The files in a folder and those that its weights need: by the index, and by their numbers."""
    names = {path.name for path in folder.iterdir()} | (_in_index(folder / INDEX) or set())
    if shard := next(filter(None, map(_SHARD.fullmatch, sorted(names))), None):
        count = int(shard["count"])
        names |= {INDEX, *(f"{shard['stem']}-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1))}
    return names


def _in_index(path: Path) -> set[str] | None:
    """The files that an index of weights names; None where it is not one."""
    try:
        return set(json.loads(path.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _listing(path: Path) -> dict[str, Listed] | None:
    """The files of a repository as `huggingface_hub` keeps them beside a download; None where it did not."""
    try:
        files = json.loads(path.read_text())["files"]
        return {
            name: Listed(int(of["size"]), of.get("lfs_sha256") or of["blob_id"]) for name, of in files.items()
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _safetensors_bytes(path: Path) -> int | None:
    """How long the file must be by its header: 8 bytes, the header, then the tensors.

    Not with safetensors' `safe_open`: it imports numpy or torch, which `phi-vision plan` does without.
    """
    try:
        with path.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            if header_bytes > _MAX_HEADER_BYTES:
                return None
            header = json.loads(opened.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + header_bytes + int(max(ends, default=0))
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        return None


def _digest(path: Path, like: str, on_read: Callable[[int], None]) -> str:
    """The sha256 of a file, or its id in git, whichever `like` is."""
    digest = hasher(like, path.stat().st_size)
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_read(len(chunk))
    return digest.hexdigest()
