"""Whether vLLM's CUDA build takes what `phi-vision serve` offers on common GPUs, checked without one.

`make check-cuda` installs the CUDA build into an environment of its own and runs this in it. Each card gets
a process in which a platform plugin answers as the card (`vllm_plugins/stand_in_card.py`); `resolve.py`
says what is checked there. Exit code 0: vLLM takes every start that the memory plan offers, and traces those
that compile, but for weights that only a card can pack; 1: it refuses one, and its words are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phi_vision.planning.gpus import GPU_NAMES
from phi_vision.planning.hardware import installed_engine

from benchmarks.check_cuda.driver import build_driver
from benchmarks.harness.machine import git_state, installed_versions, now
from benchmarks.harness.servers import PLUGINS, ROOT, python_path
from benchmarks.studies.cpu_memory import full_size_checkpoint

_CARDS = ("t4", "a10", "l4", "a100-40", "h100")
_CARD_LIMIT_S = 600
_RESULT = ROOT / "benchmarks" / "results" / "check_cuda.json"
_COLUMNS = (
    "weights",
    "kv_dtype",
    "max_model_len",
    "dtype",
    "attention",
    "linear",
    "runner",
    "cuda_graphs",
    "traced",
)


def main() -> int:
    """Check all cards."""
    about = argparse.ArgumentParser(prog="make check-cuda", description=(__doc__ or "").splitlines()[0])
    about.add_argument(
        "--cards", nargs="+", choices=GPU_NAMES, default=_CARDS, help=f"(default: {' '.join(_CARDS)})"
    )
    about.add_argument("--output", type=Path, metavar="FILE", help=f"(default: {_RESULT.relative_to(ROOT)})")
    options = about.parse_args()
    if installed_engine() != "cuda":
        about.error("vLLM's CUDA build is not in this environment: run `make check-cuda`")
    cards = {}
    with tempfile.TemporaryDirectory() as name:
        folder = full_size_checkpoint(Path(name))
        build_driver(folder)
        if not _contract_tests(options.cards[0], folder):
            return 1
        for card in options.cards:
            cards[card] = _check(card, folder)
            _show(card, cards[card])
    _write(options.output or _RESULT, cards)
    faults = [fault for card, found in cards.items() for fault in _faults(card, found)]
    print("\n".join(faults) or "vLLM takes every start that the plan offers")
    return 1 if faults else 0


def _environment(card: str, folder: Path) -> dict[str, str]:
    """In which vLLM finds the card; `folder` has the driver."""
    return {
        **os.environ,
        "PYTHONPATH": python_path(PLUGINS),
        "VLLM_PLUGINS": "benchmark_stand_in_card",
        "PHI_VISION_STAND_IN_CARD": card,  # `stand_in_card.VARIABLE`
        "LD_LIBRARY_PATH": str(folder),
        "CUDA_VISIBLE_DEVICES": "",  # as in a process of Ray's that has no card yet: vLLM keeps Triton
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(folder),  # where it writes what it compiles
    }


def _contract_tests(card: str, folder: Path) -> bool:
    """Whether vLLM's CUDA build has what phi-vision relies on."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/contract"]
    return subprocess.run(command, cwd=ROOT, env=_environment(card, folder)).returncode == 0


def _check(card: str, folder: Path) -> dict[str, Any]:
    """The rows of a card's process, and how it ended; `folder` has the checkpoint and the driver."""
    command = [sys.executable, "-m", "benchmarks.check_cuda.resolve", card, str(folder)]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=_environment(card, folder),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                timeout=_CARD_LIMIT_S,
            )
            output, error = ended.stdout, None if ended.returncode == 0 else f"exit code {ended.returncode}"
        except subprocess.TimeoutExpired as late:
            output = (late.stdout or b"").decode()
            error = f"not done after {_CARD_LIMIT_S} s"
        log.seek(0)
        words = log.read()[-2000:]
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    found = {"seconds": round(time.monotonic() - began, 1), "starts": rows}
    return found if error is None else {**found, "error": f"{error}\n{words}"}


def _faults(card: str, found: dict[str, Any]) -> list[str]:
    """What vLLM refuses, and what went wrong otherwise, in full."""
    faults = [
        f"{card}: phi-vision serve {' '.join(row['flags'])}\n    {row['error']}"
        for row in found["starts"]
        if "error" in row
    ]
    if not found["starts"] and "error" not in found:
        faults.append(f"{card}: nothing was checked")
    return [*faults, f"{card}: {found['error']}"] if "error" in found else faults


def _show(card: str, found: dict[str, Any]) -> None:
    rows = [_cells(row) for row in found["starts"]]
    head = ["phi-vision serve", *(name.replace("_", " ") for name in _COLUMNS)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print(f"\n{card}: {len(rows)} starts in {found['seconds']} s")
    for row in [head, *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cells(row: dict[str, Any]) -> list[str]:
    flags = " ".join(row["flags"]) or "(no flags)"
    said = row.get("error") or row.get("not_offered")
    if said is not None:
        what = "REFUSED" if "error" in row else "not offered"
        return [flags, what, *[""] * (len(_COLUMNS) - 1)]
    return [flags, *(str(row[name]) for name in _COLUMNS)]


def _write(path: Path, cards: dict[str, Any]) -> None:
    result = {"written": now(), "git": git_state(), "versions": installed_versions(), "cards": cards}
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
