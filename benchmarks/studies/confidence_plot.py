"""Draw what confidence is worth: `python -m benchmarks.studies.confidence_plot RESULT.json PLOT.svg`.

Needs matplotlib, which `make bench-venv` installs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(result: dict[str, Any], target: Path) -> None:
    """On the left words: mean confidence of each part of the scale, share right. On the right pages."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    bins = result["summary"]["words"]
    left.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    left.plot([row["confidence"] for row in bins], [row["right"] for row in bins], "o")
    for row in bins:
        place = (row["confidence"], row["right"])
        left.annotate(
            f"{row['count']}", place, xytext=(-4, 6), textcoords="offset points", ha="right", fontsize=8
        )
    left.set(xlim=(0, 1.03), ylim=(0, 1.08), xlabel="confidence of words", ylabel="share that is right")
    pages = result["rows"]["calibration"]["pages"]
    right.scatter(
        [page["confidence"] for page in pages], [page["character_errors"] for page in pages], s=12, alpha=0.6
    )
    right.margins(y=0.12)  # room for the words above
    right.axvline(result["low_confidence"], color="0.8", linewidth=0.8)
    right.annotate(
        "read again  ",
        (result["low_confidence"], 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, -10),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    right.set(xlabel="confidence of pages", ylabel="character errors")
    matplotlib.rcParams["svg.hashsalt"] = "phi-vision"  # the same file for the same result
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    source, plot = map(Path, sys.argv[1:3])
    draw(json.loads(source.read_text()), plot)
