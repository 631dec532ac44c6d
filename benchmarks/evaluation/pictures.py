"""Where the pictures of a data set are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from phi_vision.client.images import is_url
from phi_vision.client.text import one_line
from phi_vision.errors import UsageError


def find(name: str, folders: Iterable[Path]) -> str:
    """The path of a picture that a data set names, in the first of the folders that has it.

    Raises:
        UsageError: none of them has it.
    """
    if is_url(name):
        raise UsageError(f"{one_line(name)} is an address; pictures are read from disk")
    looked = list(dict.fromkeys(folders))
    for folder in looked:
        path = folder / name
        try:
            if name and path.is_file():
                return str(path.resolve())
        except (OSError, ValueError):
            continue  # no name that a file may have
    there = [str(folder) for folder in looked if folder.is_dir()]
    raise UsageError(
        f"no picture {one_line(repr(name))} in {one_line(', '.join(there)) or 'any folder'}; "
        "name their folder with --images"
    )
