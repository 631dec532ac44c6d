"""Joins the pieces beside this file into a folder that runs the GPU report: `python3 unpack.py FOLDER`.

Runs on the GPU machine, without a network, by the Python that has torch, and so needs the standard library
alone. The pieces bring all but torch, torchvision and what these need, which are linked from where they are
installed. Nothing else that the machine has is seen, so that what runs there can be tried elsewhere.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

MANIFEST = "pieces.json"
LINKED = ("torch", "torchvision")  # each release of the second is built against one of the first
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_MIB = 1 << 20
_TELL_EVERY_BYTES = 100 * _MIB
_CHECK = """
import pathlib, sys, torch, vllm
gpu = "which sees no GPU"
if torch.cuda.is_available():
    import vllm._C_stable_libtorch  # vLLM's kernels, which need the driver and CUDA 13
    gpu = torch.cuda.get_device_name()
    is_hopper = torch.cuda.get_device_capability()[0] == 9
    if not is_hopper and not any(pathlib.Path(vllm.__file__).parent.glob("vllm_flash_attn/_vllm_fa2_C*")):
        sys.exit(f"{gpu} needs FlashAttention 2: pack with --flash-attention-2")
print(f"vLLM {vllm.__version__}, torch {torch.__version__}, {gpu}")
"""


class Fault(Exception):
    """What keeps the pieces from being unpacked, in a line."""


class Joined:
    """The pieces as one file to read from."""

    def __init__(self, pieces: Iterable[Path]) -> None:
        self._left = [path.open("rb") for path in pieces]

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        while self._left:
            if data := self._left[0].read(size):
                return data
            self._left.pop(0).close()
        return b""


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `pieces.json` says, once all pieces are beside it as they were packed, for this Python.

    Raises:
        Fault: they are not.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise Fault(f"no {MANIFEST} beside this file: {error}") from error
    if manifest["python"] != _PYTHON:
        raise Fault(f"packed for Python {manifest['python']}, but this is {_PYTHON}")
    names = [piece["name"] for piece in manifest["pieces"]]
    if missing := [name for name in names if not (folder / name).exists()]:
        raise Fault(f"{len(missing)} of {len(names)} pieces not in {folder}: {', '.join(missing)}")
    for piece in manifest["pieces"]:
        if sha256(folder / piece["name"]) != piece["sha256"]:
            raise Fault(f"{piece['name']} is not as it was packed: copy it again")
    return manifest


def extract(pieces: Iterable[Path], folder: Path, total_bytes: int) -> None:
    """Lay down what was packed."""
    done = told = 0
    with tarfile.open(fileobj=Joined(pieces), mode="r|xz") as tar:  # type: ignore[call-overload]
        for member in tar:
            tar.extract(member, folder, filter="data")
            done += member.size
            if done - told > _TELL_EVERY_BYTES:
                told = done
                print(f"  {done // _MIB} of {total_bytes // _MIB} MiB", flush=True)


def find_linked() -> None:
    """Whether this Python has what is to be linked.

    Raises:
        Fault: it does not.
    """
    if missing := [name for name in LINKED if _installed(name) is None]:
        raise Fault(f"{sys.executable} has no {' and no '.join(missing)}: take the Python that has torch")


def link(site: Path) -> None:
    """Link torch and what it needs into this folder of packages, but for packages that are there already."""
    there = {_plain(found.name) for found in importlib.metadata.distributions(path=[str(site)])}
    needed = [found for name in LINKED for found in _with_needs(name, there)]
    for found in needed:
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            target = site / name
            if not target.exists():  # folders such as `nvidia` belong to several
                target.symlink_to(Path(str(found.locate_file(name))))


def _installed(name: str) -> Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except PackageNotFoundError:
        return None


def _with_needs(name: str, seen: set[str]) -> Iterator[Distribution]:
    """A package and what it needs, as far as it is installed and not yet seen."""
    if _plain(name) in seen or (found := _installed(name)) is None:
        return
    seen.add(_plain(name))
    yield found
    for line in found.requires or ():
        needed = re.match(r"[\w.-]+", line)
        # Extras are for others to choose, except for NVIDIA's libraries: `cuda-toolkit` has them as extras.
        if needed and ("extra ==" not in line or needed[0].startswith("nvidia-")):
            yield from _with_needs(needed[0], seen)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unpack(folder: Path) -> None:
    """All of it.

    Raises:
        Fault: it cannot be done; the line says why.
    """
    here = Path(__file__).resolve().parent
    manifest = read_manifest(here)
    find_linked()
    if folder.exists() and any(folder.iterdir()):
        raise Fault(f"{folder} is not empty: name a new folder")
    environment = folder / ".venv"
    venv.EnvBuilder(symlinks=True).create(environment)
    site = environment / "lib" / f"python{_PYTHON}" / "site-packages"
    print(f"unpacking into {folder}", flush=True)
    extract([here / piece["name"] for piece in manifest["pieces"]], folder, manifest["bytes"])
    link(site)
    print("compiling, because each start of a server imports all of it", flush=True)
    compileall.compile_dir(site, quiet=2, workers=0)
    command = [str(environment / "bin" / "python"), "-I", "-c", _CHECK]
    check = subprocess.run(command, capture_output=True, text=True)
    if check.returncode:
        raise Fault(f"unpacked, but it does not run here: {check.stderr.strip().splitlines()[-1]}")
    print(f"{check.stdout.strip()}\nnow: {folder / 'gpu-report'}")


def main() -> int:
    """Unpack; 2 where it cannot be done."""
    parser = argparse.ArgumentParser(
        description="Unpacks what the GPU report needs, beside this Python's torch."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new one")
    options = parser.parse_args()
    try:
        unpack(options.folder.resolve())
    except (Fault, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
