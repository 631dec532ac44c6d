"""Draw the panels of the dashboard: `python -m benchmarks.studies.dashboard_plot RESULT.json PLOT.png`.

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
from PIL import Image

UNITS = {"reqps": "a second", "s": "seconds", "percentunit": "share", "short": ""}
COLUMN = 8  # the width of a panel, of Grafana's 24


def draw(result: dict[str, Any], target: Path) -> None:
    """Each panel in its place, with its title, its unit and the legends of its series."""
    shown = result["panels"]
    rows = 1 + max(panel["place"]["y"] for panel in shown) // COLUMN
    pyplot.rcParams["font.size"] = 8
    figure, axes = pyplot.subplots(rows, 3, figsize=(12, 2.1 * rows), layout="constrained", sharex=True)
    for panel in shown:
        plot = axes[panel["place"]["y"] // COLUMN][panel["place"]["x"] // COLUMN]
        plot.set_title(panel["title"], loc="left", fontweight="bold", fontsize=9)
        for series in panel["series"]:
            if series["points"]:
                plot.plot(*zip(*series["points"], strict=True), label=series["legend"], linewidth=1)
        plot.set(ylim=(0, 1.35 * plot.get_ylim()[1]), ylabel=UNITS[panel["unit"]])  # room for the legend
        plot.spines[["top", "right"]].set_visible(False)
        plot.grid(color="0.92")
        if plot.lines:
            plot.legend(loc="upper left", fontsize=6, frameon=False, ncols=2)
    for plot in axes[-1]:
        plot.set_xlabel("seconds")
    figure.savefig(target, dpi=90, metadata={"Software": None})
    with Image.open(target) as picture:
        few_colors = picture.convert("RGB").quantize(64)  # a third of the bytes
    few_colors.save(target, optimize=True)


if __name__ == "__main__":
    source, plot = map(Path, sys.argv[1:3])
    draw(json.loads(source.read_text()), plot)
