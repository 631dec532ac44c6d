"""Draw the curves of the model card: `python -m demo_training.card LOG FOLDER` (needs matplotlib)."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_LOSSES = ("glyph_loss", "mark_loss", "looking_loss", "answer_loss")
_SHARES = {
    "glyphs": "characters named in their cell",
    "marks": "shapes named in their cell",
    "looks": "cells found that show what is said next",
    "answers": "tokens of answers",
}


def draw_curves(rows: list[dict[str, Any]], target: Path) -> None:
    """Losses above, shares of right answers below, over the pictures seen; stages apart."""
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    thousands = [row["pictures"] / 1000 for row in rows]
    for name in _LOSSES:
        above.plot(thousands, [row.get(name, float("nan")) for row in rows], label=name.replace("_", " "))
    for name, label in _SHARES.items():
        below.plot(thousands, [row.get(name, float("nan")) for row in rows], label=label)
    for stage, members in groupby(rows, key=lambda row: row["stage"]):
        start = next(members)["pictures"] / 1000
        for axes in (above, below):
            axes.axvline(start, color="0.8", linewidth=0.8)
        corner = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        above.annotate(stage, (start, 1), xytext=(3, -10), fontsize=8, **corner)
    above.set(yscale="log", ylabel="loss")
    below.set(ylim=(0, 1), ylabel="share that is right", xlabel="thousand pictures")
    above.legend(loc="lower left")
    below.legend(loc="lower right")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    log, folder = map(Path, sys.argv[1:3])
    draw_curves([json.loads(line) for line in log.read_text().splitlines()], folder / "curves.png")
