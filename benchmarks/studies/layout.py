"""How well are blank pages, print sizes and tiles found on drawn pages whose truth is known?

    python -m benchmarks.studies.layout --out FILE [--pages N]

Each page is A4 at 150 dots an inch, drawn and made a scan by `tests/support/documents.py`: skew up to
3 degrees either way, noise, JPEG, paper of several colours (one in ten a negative), dirt. The thresholds were
chosen on other seeds, below `FIRST_SEED`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
from phi_vision.documents.layout import MIN_X_HEIGHT_PX, Layout, page_of
from phi_vision.media.view import WHOLE, Region
from phi_vision.model.canvas import Canvas, resize_and_pad
from phi_vision.spec import PHI_3_5_VISION

from benchmarks.harness.machine import describe_machine
from tests.support.documents import DIRT, Page, draw, levelled, scanned

FIRST_SEED = 1_000_000
PAPERS = ((255, 255, 255), (240, 230, 200), (170, 170, 175), (120, 140, 160))
PRINT = ("prose", "capitals", "columns", "contents", "table")
BLANK = {"clean": (), **{name: (name,) for name in DIRT}, "all of it": tuple(DIRT)}
MAX_TILES = 12
NUM_CROPS = PHI_3_5_VISION.max_num_crops
SKEWS_DEGREES = (0.0, 1.0, 3.0)
PROCESSES = 2


def grey_of_page(page: Page) -> np.ndarray:
    """The page as the server sees it, at full crops."""
    return page_of(Canvas(resize_and_pad(page.image, NUM_CROPS), *page.image.size, NUM_CROPS, "key"))


def scan(page: Page, rng: Random, dirt: tuple[str, ...], **options: Any) -> Page:
    """The page as a scan of random quality."""
    return scanned(
        page,
        rng,
        dirt=dirt,
        noise=rng.uniform(0, 8),
        jpeg_quality=rng.choice((30, 60, 90)),
        paper=rng.choice(PAPERS),
        inverted=rng.random() < 0.1,
        **({"skew_degrees": rng.uniform(-3, 3)} | options),
    )


def blank(dirt: str, kind: str, seed: int) -> bool:
    """Whether a page of `kind` with this dirt is found blank."""
    rng = Random(seed)
    page = draw(kind, rng, em=rng.uniform(14, 40))
    return Layout(grey_of_page(scan(page, rng, BLANK[dirt], ink=rng.choice((10, 80, 140, 180))))).is_blank


def print_size(kind: str, seed: int) -> dict[str, float]:
    """The error of the height of small letters, the axis found, and the time that all facts take."""
    rng = Random(seed)
    page = draw(kind, rng, em=rng.uniform(9, 40))
    page = scan(page, rng, tuple(rng.sample(sorted(DIRT), 2)), ink=rng.choice((10, 80, 140)))
    grey = grey_of_page(page)
    began = time.perf_counter()
    found = Layout(grey)
    found.is_blank, found.x_height_px, found.text_axis, found.slant, found.tiles(MAX_TILES, NUM_CROPS)
    elapsed_ms = 1000 * (time.perf_counter() - began)
    truth = (page.x_height_px or 0) * grey.shape[1] / page.image.width
    return {
        "error": (found.x_height_px or 0) / truth - 1,
        "ms": elapsed_ms,
        "upright": not found.text_axis.vertical,
        "blank": found.is_blank,
    }


def cut(skew_degrees: float, kind: str, seed: int) -> dict[str, int]:
    """The tiles of a page of small print: how many lines they part, lose or hold."""
    rng = Random(seed)
    page = draw(kind, rng, em=rng.uniform(9, 13))
    page = scan(page, rng, ("holes",), skew_degrees=skew_degrees * rng.choice((-1, 1)))
    page = levelled(page, Layout(grey_of_page(page)).slant)
    tiles = Layout(grey_of_page(page)).tiles(MAX_TILES, NUM_CROPS)
    regions = [tile.region or WHOLE for tile in tiles]
    assert page.labels is not None
    height, width = page.labels.shape
    held = [part_lines(page.labels, region, width, height) for region in regions]
    together: set[int] = set().union(*held)
    return {
        "lines": len(page.lines) if regions else 0,
        "parted": sum(map(len, held)) - len(together),
        "lost": len(page.lines) - len(together) if regions else 0,
        "tiles": len(regions),
    }


def part_lines(labels: np.ndarray, region: Region, width: int, height: int) -> set[int]:
    """The lines that have ink in a region."""
    rows = slice(round(region.top * height), round(region.bottom * height))
    part = labels[rows, round(region.left * width) : round(region.right * width)]
    return set(np.unique(part).tolist()) - {0}


def main() -> int:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the JSON goes")
    parser.add_argument(
        "--pages", type=int, default=25, metavar="N", help="of each row (default: %(default)s)"
    )
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.pages)
    with ProcessPoolExecutor(PROCESSES) as pool:

        def each(measure: Callable[..., Any], *arguments: Any, share: int = 1) -> Iterator[Any]:
            print(measure.__name__, *arguments, file=sys.stderr, flush=True)
            return pool.map(partial(measure, *arguments), seeds[::share], chunksize=2)

        dirty = {
            dirt: {f"{kind}_found_blank": sum(each(blank, dirt, kind)) for kind in ("blank", "one_line")}
            for dirt in BLANK
        }
        sizes, times, tiled = {}, [], []
        for kind in PRINT:
            rows = list(each(print_size, kind))
            errors: list[float] = [row["error"] for row in rows]
            times += [row["ms"] for row in rows]
            sizes[kind] = {
                "median_error": round(median(errors), 3),
                "worst_error": round(max(map(abs, errors)), 3),
                "found_blank": sum(row["blank"] for row in rows),
                "axis_right": sum(row["upright"] for row in rows),
            }
            for skew in SKEWS_DEGREES:
                found = list(each(cut, skew, kind, share=3))
                total = {key: sum(row[key] for row in found) for key in found[0]}
                tiled.append({"kind": kind, "skew_degrees": skew, "pages": len(found)} | total)
    result = {
        "machine": describe_machine(),
        "pages_a_row": options.pages,
        "first_seed": FIRST_SEED,
        "min_x_height_px": MIN_X_HEIGHT_PX,
        "blank": dirty,
        "print": sizes,
        "tiles": tiled,
        "median_ms_a_page": round(median(times), 1),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
