"""Which weights are served: the published ones where they can be had, else the demo, never silently."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.model.dimensions import read_config_json
from phi_vision.planning import hub
from phi_vision.planning.weights_cache import inspect_cache, inspect_folder
from phi_vision.spec import PHI_3_5_VISION, Dimensions

DEMO_FOLDER = Path(__file__).parents[1] / "demo"  # part of the package; its MODEL_CARD.md says what it can do

DEMO_BANNER = """\
  ****************************************************************************
  *  DEMO MODEL. This is not Phi-3.5-vision: a toy of the same architecture, *
  *  trained to read short printed lines of capitals and digits and to name  *
  *  plain shapes. It knows nothing else.                                    *
  *  {reason:<72}*
  ****************************************************************************"""


@dataclass(frozen=True)
class Checkpoint:
    """A model to serve and the names it goes by."""

    path: str  # a folder or a hub id
    name: str  # what responses call it
    dimensions: Dimensions
    aliases: tuple[str, ...] = ()  # other names that clients may use
    demo_reason: str | None = None  # why the demo is served, if it is
    is_folder: bool = False  # whether `path` is one

    @property
    def banner(self) -> str | None:
        """What must be shown when the demo stands in."""
        return DEMO_BANNER.format(reason=self.demo_reason) if self.demo_reason else None


def find_checkpoint(wanted: str, served_name: str | None, revision: str | None = None) -> Checkpoint:
    """Resolve `--model`.

    Args:
        wanted: `auto`, `demo`, a folder or a hub id.
        served_name: what responses call it, if the user chose that.
        revision: of a repository; None for the main branch.

    Raises:
        UsageError: no checkpoint of this architecture there.
    """
    if wanted == "demo":
        return _demo(served_name, "You asked for it with --model demo.")
    if wanted == "auto":
        if (path := _hub_or_cache(PHI_3_5_VISION.hub_id, revision)) is not None:
            return _checkpoint(path, served_name, revision)
        return _demo(served_name, "The weights are not cached here and no hub answers.")
    if (folder := named_folder(wanted)) is not None:
        if not (folder / "config.json").is_file():
            raise UsageError(f"--model {wanted}: no config.json in that folder")
        check_weights(folder)
        return _checkpoint(str(folder), served_name)
    return _checkpoint(_hub_or_cache(wanted, revision) or wanted, served_name, revision)


def named_folder(wanted: str) -> Path | None:
    """The folder that `--model` names; None where it names something else."""
    folder = Path(wanted).expanduser()
    is_path = folder.exists() or wanted.startswith((".", "/", "~"))
    return folder if is_path and wanted not in ("auto", "demo") else None


def find_dimensions(path: str, revision: str | None = None) -> Dimensions:
    """The dimensions of the checkpoint at `path`, a folder or a hub id.

    Raises:
        UsageError: its config.json cannot be had or is not of this architecture.
    """
    if path == PHI_3_5_VISION.hub_id:
        return PHI_3_5_VISION.dimensions
    folder = Path(path).expanduser()
    try:
        if not folder.is_dir():
            folder = _config_folder(path, revision)
        return read_config_json(folder)
    except Exception as error:  # the hub's errors share no base
        raise UsageError(f"--model {path}: no config.json of a Phi-3-vision model there: {error}") from error


def check_weights(folder: Path) -> None:
    """Find what a broken download leaves, before a minute of loading does.

    A folder without any weights is for vLLM to judge: there are other formats, and `--load-format dummy`.

    Raises:
        UsageError: a file that the weights need is not there, or is cut short.
    """
    for file in inspect_folder(folder).faulty:
        raise UsageError(f"{file.path} is {file.fault}; download it again")


def _checkpoint(path: str, served_name: str | None, revision: str | None = None) -> Checkpoint:
    name = served_name or PHI_3_5_VISION.served_name
    return Checkpoint(path, name, find_dimensions(path, revision), is_folder=Path(path).is_dir())


def _demo(served_name: str | None, reason: str) -> Checkpoint:
    check_weights(DEMO_FOLDER)
    # Clients written for the real model work unchanged; what they get back says what it is.
    aliases = () if served_name else (PHI_3_5_VISION.served_name,)
    name = served_name or PHI_3_5_VISION.demo_name
    dimensions = find_dimensions(str(DEMO_FOLDER))
    return Checkpoint(str(DEMO_FOLDER), name, dimensions, aliases, reason, is_folder=True)


def _hub_or_cache(repo_id: str, revision: str | None) -> str | None:
    """The repository itself if the hub answers, else its folder in the Hugging Face cache, if complete."""
    if _hub_answers(repo_id):
        return repo_id
    cached = inspect_cache(repo_id, revision)
    return str(cached.folder) if cached.is_whole else None


def _hub_answers(repo_id: str) -> bool:
    """Whether the hub has this repository for us."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        hub.list_files(repo_id)
    except PhiVisionError:  # whatever is wrong with the hub, it is not there for us
        return False
    return True


def _config_folder(repo_id: str, revision: str | None) -> Path:
    """Where the repository's config.json lies in the cache; it is downloaded first if need be."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repo_id, "config.json", revision=revision), str):
        hub.list_files(repo_id, revision)  # the download would ask a hub that is gone for 23 seconds
    try:
        return Path(hf_hub_download(repo_id, "config.json", revision=revision)).parent
    except Exception as error:  # the hub's errors share no base
        raise hub.explained(error, repo_id, revision) from error
