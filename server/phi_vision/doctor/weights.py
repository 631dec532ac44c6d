"""The checkpoint: whether the hub has it for us, what of it is here and whole, and room for the rest."""

from __future__ import annotations

import os
from pathlib import Path

from phi_vision.doctor.finding import Finding, fail, ok, skipped, warn
from phi_vision.doctor.hub import address
from phi_vision.doctor.setup import Setup
from phi_vision.planning.memory import BF16_BYTES, text_weights_bytes
from phi_vision.planning.weights_cache import CheckpointFile, cache_folder, find_corrupt, free_bytes
from phi_vision.spec import PHI_3_5_VISION

_GB = 10**9
_SHOWN_FILES = 3


def hub(setup: Setup) -> Finding | None:
    """Whether the checkpoint can be downloaded."""
    if setup.folder is not None:
        return None
    fault = setup.hub
    if fault is None:
        return ok(f"{address()} has {setup.hub_id}")
    summary = fault.summary if fault.is_offline else f"{address()}: {fault.summary}"
    if setup.weights.is_whole:
        return ok(f"{summary}; not needed, the weights are here")
    if setup.config.model == "auto":
        return warn(f"{summary}; the demo model is served instead", fault.remedy)
    return fail(summary, fault.remedy)


def files(setup: Setup) -> Finding:
    """Whether all files of the checkpoint are here, with their sizes."""
    found = setup.weights
    where = found.folder or setup.folder
    if found.is_whole:
        return ok(f"{len(found.files)} files, {found.present_bytes / _GB:.2f} GB in {where}")
    if setup.folder is not None:
        remedy = "name a folder with config.json and its .safetensors files, or download it again"
        return fail(f"{where}: {_faults(found.faulty) or 'no checkpoint there'}", remedy)
    damaged = [file for file in found.faulty if file.path.exists()]
    if damaged:  # the hub's client takes a file that is there for whole
        return fail(f"{where}: {_faults(found.faulty)}", _delete(damaged))
    summary = (
        f"not complete in {where}: {_faults(found.faulty)}" if where else f"{setup.hub_id} is not here yet"
    )
    if setup.hub is None:
        missing = _missing_bytes(setup)
        size = f"{missing / _GB:.1f} GB" if missing else "what is missing"
        return warn(summary, f"the next start downloads {size}")
    if setup.config.model == "auto":
        return warn(f"{summary}; the demo model is served instead", "see what is said of the hub above")
    return fail(summary, "see what is said of the hub above")


def disk(setup: Setup) -> Finding | None:
    """Whether what is missing fits on the disk."""
    if setup.folder is not None:
        return None
    folder = cache_folder()
    free, missing = free_bytes(folder), 0 if setup.weights.is_whole else _missing_bytes(setup)
    summary = f"{free / _GB:.1f} GB are free for {folder}"
    if missing == 0:
        return ok(summary)
    if not os.access(_existing(folder), os.W_OK):
        return fail(f"{folder} cannot be written", "set HF_HOME to a folder that can")
    if missing is None:
        return ok(f"{summary}; how much {setup.hub_id} takes is not known before the download")
    if free < missing:
        return fail(
            f"{summary}, but {missing / _GB:.1f} GB are still to be downloaded",
            "free some, or set HF_HOME to a folder on a larger disk",
        )
    return ok(f"{summary}, and {missing / _GB:.1f} GB are still to be downloaded")


def contents(setup: Setup) -> Finding | None:
    """Whether the files hold what their digests say, where the cache knows them."""
    found = setup.weights
    known = [file for file in found.files if file.digest and not file.fault]
    if not known:
        return skipped("no digests are known of these files") if found.files else None
    total, done = sum(file.present_bytes for file in known), 0

    def on_read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        setup.progress(f"{100 * done // max(total, 1)} %")

    corrupt = list(find_corrupt(found, on_read))
    if corrupt:
        names = ", ".join(file.name for file in corrupt)
        return fail(f"damaged: {names}", _delete(corrupt))
    return ok(f"{len(known)} files are what was published, by their digests")


def _missing_bytes(setup: Setup) -> int | None:
    """What must be downloaded; of the published weights also before a listing is here."""
    missing = setup.weights.missing_bytes
    if missing is None and setup.hub_id == PHI_3_5_VISION.hub_id:
        model = PHI_3_5_VISION.dimensions
        total = text_weights_bytes(model, "bf16") + model.vision_params * BF16_BYTES
        return max(0, total - setup.weights.present_bytes)
    return missing


def _faults(faulty: list[CheckpointFile]) -> str:
    shown = "; ".join(f"{file.name} is {file.fault}" for file in faulty[:_SHOWN_FILES])
    more = len(faulty) - _SHOWN_FILES
    return f"{shown}; and {more} more" if more > 0 else shown


def _delete(damaged: list[CheckpointFile]) -> str:
    """What a snapshot links to is to be deleted: a link alone would be made again to the same content."""
    paths = " ".join(str(file.path.resolve()) for file in damaged)
    return f"delete {paths}; the next start downloads it again"


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
