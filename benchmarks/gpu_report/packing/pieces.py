"""A folder as one compressed archive, cut into pieces for transfers that take so much at a time.

`pieces.json` beside them has their names and checksums.
"""

from __future__ import annotations

import json
import lzma
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_report.packing import unpack

_ARCHIVE = "gpu-report.tar.xz"
# The first filter makes calls of one function alike. Higher presets take minutes more for 1 % less.
_FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 << 20}]


class Cutter:
    """A file to write to, whose bytes go into pieces of this size and a last, smaller one."""

    def __init__(self, folder: Path, piece_bytes: int) -> None:
        self.pieces: list[Path] = []
        self._folder = folder
        self._piece_bytes = piece_bytes
        self._left = 0  # bytes that the last piece still takes

    def write(self, data: bytes) -> int:
        """Append."""
        rest = memoryview(data)
        while rest:
            if self._left == 0:
                self.pieces.append(self._folder / f"{_ARCHIVE}.{len(self.pieces) + 1}")
                self._left = self._piece_bytes
            part, rest = rest[: self._left], rest[self._left :]
            with self.pieces[-1].open("ab") as file:
                file.write(part)
            self._left -= len(part)
        return len(data)


def cut(
    folder: Path, out: Path, piece_bytes: int, python: str, progress: Callable[[float], None] = lambda _: None
) -> list[Path]:
    """Pack a folder into `out`, in place of what an earlier run left there.

    Args:
        folder: what to pack.
        out: gets the pieces, the manifest and `unpack.py`.
        piece_bytes: of each piece, at most.
        python: version that the other machine must have, such as "3.12".
        progress: is told again and again which share is done.

    Returns:
        The pieces.
    """
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / unpack.MANIFEST
    for old in (manifest, *out.glob(f"{_ARCHIVE}.*")):
        old.unlink(missing_ok=True)
    # Alike beside alike: the compressor then finds more that it has seen.
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    paths.sort(key=lambda path: (path.suffix, path))
    total = sum(path.stat().st_size for path in paths)
    done = 0
    cutter = Cutter(out, piece_bytes)
    with (
        lzma.LZMAFile(cutter, "wb", filters=_FILTERS) as stream,  # type: ignore[arg-type]
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        for path in paths:
            tar.add(path, path.relative_to(folder).as_posix(), filter=_without_owner)
            done += path.stat().st_size
            progress(done / total)
    rows = [{"name": piece.name, "sha256": unpack.sha256(piece)} for piece in cutter.pieces]
    manifest.write_text(json.dumps({"python": python, "bytes": total, "pieces": rows}, indent=1) + "\n")
    shutil.copy2(unpack.__file__, out / "unpack.py")
    return cutter.pieces


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
