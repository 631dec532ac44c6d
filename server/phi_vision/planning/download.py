"""A checkpoint from the hub into the cache on this disk: checked, resumed, and with its progress.

`huggingface_hub` begins a file anew after an interruption. Here what has come of a file stays in the cache as
`blobs/DIGEST.incomplete`, and the next start goes on with it; the hub's client then links what is whole.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from phi_vision.errors import UsageError
from phi_vision.planning.hub import HubRefusal, HubUnavailable, explained, list_files
from phi_vision.planning.transfer import GO_ON, Part, Sleep, Transfer
from phi_vision.planning.weights_cache import (
    CheckpointFile,
    cache_folder,
    free_bytes,
    inspect_cache,
    inspect_folder,
    storage_folder,
)

OnProgress = Callable[[int, int], None]  # bytes that are here, and of how many


def fetch(
    hub_id: str,
    revision: str | None = None,
    on_progress: OnProgress = lambda done_bytes, total_bytes: None,
    sleep: Sleep = asyncio.sleep,
) -> Path | None:
    """Download what a server needs of a repository and is not in the cache yet.

    Args:
        hub_id: as `owner/name`.
        revision: a branch, tag or commit; None for the main branch.
        on_progress: called often.
        sleep: waits for seconds.

    Returns:
        The folder with the files; None where the hub lists no weights whose size and digest it tells.

    Raises:
        UsageError: no room on the disk, or the hub does not give it; a download that broke off can go on.
    """
    try:
        listing = list_files(hub_id, revision)
    except HubUnavailable as error:
        cached = inspect_cache(hub_id, revision)
        if cached.is_whole:
            return cached.folder
        raise UsageError(f"cannot download {hub_id}, of which the cache has not all: {error}") from error
    except HubRefusal as error:
        raise UsageError(f"cannot download {hub_id}: {error}") from error
    storage = storage_folder(hub_id)
    found = inspect_folder(storage / "snapshots" / listing.commit, listing.files)
    if found.is_whole:
        return found.folder
    if not _can_be_checked(found.files):
        return None
    parts = _parts(found.faulty, storage / "blobs")
    total_bytes = sum(file.size_bytes or 0 for file in found.files)
    whole_bytes = total_bytes - sum(part.size_bytes for part in parts)
    try:
        _clear_away(found.faulty, parts)
        _check_disk(hub_id, parts)
        transfer = Transfer(
            hub_id, listing.commit, lambda done: on_progress(whole_bytes + done, total_bytes), sleep
        )
        asyncio.run(transfer.run(parts))
        return _link(hub_id, revision, [file.name for file in found.files])
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(
                f"the disk is full at {cache_folder()}: free some space, then {GO_ON}"
            ) from error
        reason = error.strerror or error
        raise UsageError(
            f"cannot write to {cache_folder()}: {reason}; HF_HOME names another folder"
        ) from error


def _can_be_checked(files: Sequence[CheckpointFile]) -> bool:
    """Whether there are weights, and all sizes and digests are known."""
    has_weights = any(file.name.endswith(".safetensors") for file in files)
    return has_weights and all(file.digest and file.size_bytes is not None for file in files)


def _parts(files: Iterable[CheckpointFile], blobs: Path) -> list[Part]:
    """Each content once."""
    parts = (
        Part(file.name, file.size_bytes, file.digest, blobs / file.digest)
        for file in files
        if file.digest and file.size_bytes is not None
    )
    return list({part.digest: part for part in parts}.values())


def _check_disk(hub_id: str, parts: Sequence[Part]) -> None:
    missing_bytes = sum(part.size_bytes - part.present_bytes for part in parts)
    free = free_bytes(cache_folder())
    if missing_bytes > free:
        raise UsageError(
            f"{hub_id} takes {missing_bytes / 1e9:.2f} GB at {cache_folder()}, where {free / 1e9:.2f} GB "
            "are free: free some space, or set HF_HOME to a folder on another disk"
        )


def _clear_away(files: Iterable[CheckpointFile], parts: Sequence[Part]) -> None:
    """Delete what has the wrong size, and make room for what comes."""
    for file in files:
        file.path.unlink(missing_ok=True)
    for part in parts:
        part.blob.parent.mkdir(parents=True, exist_ok=True)
        if part.blob.exists() and part.blob.stat().st_size != part.size_bytes:
            part.blob.unlink()


def _link(hub_id: str, revision: str | None, names: list[str]) -> Path:
    """Have the hub's client make the snapshot of what lies in its cache now."""
    from huggingface_hub import snapshot_download, utils

    had_bars = not utils.are_progress_bars_disabled()  # type: ignore[attr-defined]  # all are documented
    utils.disable_progress_bars()  # type: ignore[attr-defined]  # there is nothing left to wait for
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=names))
    except Exception as error:  # the hub's errors share no base
        if isinstance(error, OSError) and error.errno:
            raise
        raise UsageError(
            f"the download of {hub_id} broke off: {explained(error, hub_id)}; {GO_ON}"
        ) from error
    finally:
        if had_bars:
            utils.enable_progress_bars()  # type: ignore[attr-defined]
