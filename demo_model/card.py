"""Draw the pictures of the model card: `python -m demo_model.card RUN FOLDER` (needs matplotlib)."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from demo_model.pictures import COLORS

matplotlib.use("Agg")
from matplotlib import pyplot

_LOSSES = ("glyph_loss", "shape_loss", "answer_loss")
_SHARES = {
    "glyphs": "glyphs named in their cell",
    "shapes": "shapes named in their cell",
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


def draw_examples(folder: Path) -> None:
    """A page and a scene that show what the demo can do."""
    page = Image.new("RGB", (640, 480), "white")
    pen = ImageDraw.Draw(page)
    for row, line in enumerate(("GARDEN MARKET", "COFFEE $3.50", "OPEN 9:00")):
        pen.text((70, 150 + 95 * row), line, font=ImageFont.load_default(60), fill="black", anchor="ls")
    page.save(folder / "example_text.png", optimize=True)

    scene = Image.new("RGB", (640, 480), (250, 248, 240))
    pen = ImageDraw.Draw(scene)
    pen.ellipse((50, 180, 210, 340), fill=COLORS["red"])
    pen.rectangle((265, 90, 395, 220), fill=COLORS["blue"])
    pen.polygon([(520, 210), (435, 380), (605, 380)], fill=COLORS["green"])
    scene.save(folder / "example_shapes.png", optimize=True)


if __name__ == "__main__":
    run, folder = map(Path, sys.argv[1:3])
    log = (run / "log.jsonl").read_text().splitlines()
    draw_curves([json.loads(line) for line in log], folder / "curves.png")
    draw_examples(folder)
