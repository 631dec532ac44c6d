"""The checkpoint: whether the hub has it for us, what of it is here and whole, and room for the rest."""

from __future__ import annotations

import os
from pathlib import Path

from phi_vision.doctor.finding import Finding, fail, ok, skipped, warn
from phi_vision.doctor.hub import address
from phi_vision.doctor.setup import Setup
from phi_vision.planning.weights_cache import CheckpointFile, cache_folder, find_corrupt, free_bytes

_GB = 10**9
_SHOWN_FILES = 3


def hub(setup: Setup) -> Finding | None:
    """Whether the checkpoint can be downloaded."""
    if setup.folder is not None:
        return None
    fault = setup.hub_fault
    if fault is None:
        return ok(f"{address()} has {setup.hub_id}")
    if setup.weights.is_whole:
        return ok(f"{fault.summary}; not needed, the weights are here")
    if setup.config.model == "auto":
        return warn(f"{fault.summary}; the demo model is served instead", fault.remedy)
    return fail(fault.summary, fault.remedy)


def files(setup: Setup) -> Finding:
    """Whether all files of the checkpoint are here, with their sizes."""
    found = setup.weights
    where = found.folder or setup.folder
    if found.is_whole:
        return ok(f"{len(found.files)} files, {found.present_bytes / _GB:.2f} GB in {where}")
    if setup.folder is not None:
        remedy = "name a folder with config.json and its .safetensors files, or download it again"
        return fail(f"{where}: {_faults(found.faulty) or 'no checkpoint there'}", remedy)
    summary = f"{setup.hub_id} is not here yet"
    if found.present_bytes:
        summary = f"not whole in {where}: {_faults(found.faulty)}"
    if setup.hub_fault is None:
        return warn(summary, f"the next start downloads {_missing(setup)}")
    remedy = "see what is said of the hub above"
    if setup.config.model == "auto":
        return warn(f"{summary}; the demo model is served instead", remedy)
    return fail(summary, remedy)


def disk(setup: Setup) -> Finding | None:
    """Whether what is missing fits on the disk."""
    if setup.folder is not None:
        return None
    folder = cache_folder()
    free = free_bytes(folder)
    summary = f"{free / _GB:.1f} GB are free for {folder}"
    if setup.weights.is_whole:
        return ok(summary)
    if not os.access(_existing(folder), os.W_OK):
        return fail(f"{folder} cannot be written", "set HF_HOME to a folder that can")
    missing_bytes = setup.weights.missing_bytes
    if missing_bytes is not None and free < missing_bytes:
        return fail(
            f"{summary}, but {_missing(setup)} must still be downloaded",
            "free some, or set HF_HOME to a folder on a larger disk",
        )
    return ok(f"{summary}; {_missing(setup)} must still be downloaded")


def contents(setup: Setup) -> Finding | None:
    """Whether the files hold what their digests say, where the cache knows them."""
    found = setup.weights
    known = [file for file in found.files if file.digest and not file.fault]
    if not known:
        return skipped("no digests are known of these files") if found.present_bytes else None
    total, done = sum(file.present_bytes for file in known), 0

    def on_read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        setup.progress(f"{100 * done // max(total, 1)} %")

    corrupt = list(find_corrupt(found, on_read))
    if corrupt:
        names = ", ".join(file.name for file in corrupt)
        # What a snapshot links to: a link alone would be made again to the same content.
        paths = " ".join(str(file.path.resolve()) for file in corrupt)
        return fail(f"damaged: {names}", f"delete {paths}; the next start downloads it again")
    return ok(f"{len(known)} files are what was published, by their digests")


def _missing(setup: Setup) -> str:
    """How much must be downloaded."""
    missing_bytes = setup.weights.missing_bytes
    return "what is missing" if missing_bytes is None else f"{missing_bytes / _GB:.2f} GB"


def _faults(faulty: list[CheckpointFile]) -> str:
    shown = "; ".join(f"{file.name} is {file.fault}" for file in faulty[:_SHOWN_FILES])
    more = len(faulty) - _SHOWN_FILES
    return f"{shown}; and {more} more" if more > 0 else shown


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
