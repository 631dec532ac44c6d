"""Packs what a GPU machine without a network needs for the GPU report: `make gpu-pack`.

That machine has Python, torch built for CUDA, and no way to fetch the rest. vLLM's CUDA wheel without the
kernels of other models, the packages that it and phi-vision need, and this checkout's benchmarks become one
archive in pieces, with `unpack.py` beside them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_report.packing.contents import assemble
from benchmarks.gpu_report.packing.pieces import cut
from benchmarks.harness.servers import ROOT

_MIB = 1 << 20
_TELL_EVERY_S = 15


def main() -> int:
    """Assemble and cut."""
    parser = argparse.ArgumentParser(prog="make gpu-pack", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--python", default="3.12", type=_version, help="the GPU machine's (default: %(default)s)"
    )
    parser.add_argument(
        "--piece-mib", type=_positive, default=62, metavar="N", help="size of a piece (default: %(default)s)"
    )
    parser.add_argument(
        "--flash-attention-2", action="store_true", help="for GPUs other than H100 and H200: 80 MiB more"
    )
    default_out = ROOT / "dist" / "gpu-report"
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=default_out,
        help=f"(default: {default_out.relative_to(ROOT)})",
    )
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            assemble(Path(name), options.python, flash_attention_2=options.flash_attention_2)
            print("compressing on one core, which takes minutes", flush=True)
            pieces = cut(Path(name), options.out, options.piece_mib * _MIB, options.python, _Progress())
    except subprocess.CalledProcessError as error:
        print(f"gpu-pack: {Path(error.cmd[0]).name} failed, as it says above", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:  # no uv, no room, no right to write; a list out of date
        print(f"gpu-pack: {error}", file=sys.stderr)
        return 2
    sizes = ", ".join(f"{piece.stat().st_size / _MIB:.1f}" for piece in pieces)
    print(f"{len(pieces)} pieces of {sizes} MiB in {options.out}")
    print("copy that folder to the GPU machine, in as many transfers as it takes")
    print("there, by the Python that has torch: python3 unpack.py FOLDER")
    return 0


class _Progress:
    """Prints a share now and then."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, share: float) -> None:
        if time.monotonic() - self._told > _TELL_EVERY_S:
            self._told = time.monotonic()
            print(f"  {share:.0%}", flush=True)


def _version(text: str) -> str:
    if not re.fullmatch(r"3\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 3.12")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of MiB")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
