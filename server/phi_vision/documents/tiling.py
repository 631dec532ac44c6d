"""Where a page can be cut: at gutters between columns, and at blank rows between lines.

Cuts are straight and level; a page that slants is levelled before it is cut.

A tile is a band of lines of one column. White around it fills a grid of crops, the squarest on which its
print is large enough: there the global view shows letters undistorted, and a line of a short band is no
larger than that of a high one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from phi_vision.documents.ink import Marks
from phi_vision.media.view import Frame
from phi_vision.model.geometry import CROP_PX

MIN_X_HEIGHT_PX = 8.0  # of small letters on the canvas, below which the model misreads print
_MIN_GAIN = 1.1  # of the print's size; cutting a page for less is not worth its cost

# A gutter, in heights of small letters unless named otherwise. Spaces between words are half a height wide.
_GUTTER_WIDTH = 2.0
_GUTTER_SHARE = 0.6  # of the height of the print that it runs through without a break
_MIN_COLUMN_WIDTH = 12.0
_MIN_COLUMN_FILL = (
    0.55  # of a column's width that its usual row of print takes; the cells of a table take less
)
_MARGIN = 1.5  # kept around the print, for points and accents too small to be marks
_MIN_LINE_HEIGHT = 0.6  # lower pieces are accents and dots: no cut parts them from their line


class Box(NamedTuple):
    """A part of a page, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class Tile(NamedTuple):
    """A part of a page to be read alone, and the white around it."""

    box: Box
    frame: Frame


class _Grid(NamedTuple):
    columns: int  # crops
    rows: int


def columns(print_: np.ndarray, x_height_px: float | None, frames: Marks) -> list[Box]:
    """Blocks of print, in reading order: columns with a clear gutter between them, and what spans them.

    Args:
        print_: bool (h, w), where there is print.
        x_height_px: height of its small letters; None without lines.
        frames: ruled frames, whose insides are tables and have no gutters.

    Returns:
        Disjoint boxes that hold all print; one box where there is no gutter, none without print.
    """
    if x_height_px is None:
        return []
    solid = print_.copy()
    for left, top, right, bottom in zip(frames.left, frames.top, frames.right, frames.bottom, strict=True):
        solid[top:bottom, left:right] = True
    whole = Box(0, 0, print_.shape[1], print_.shape[0])
    return [
        _trimmed(print_, box, x_height_px)
        for box in _split(solid, whole, x_height_px)
        if _part(print_, box).any()
    ]


def tiles(
    print_: np.ndarray,
    x_height_px: float | None,
    frames: Marks,
    max_tiles: int,
    num_crops: int,
    wanted_px: float,
) -> list[Tile]:
    """Tiles whose print is large enough when each is drawn on a grid of its own, see `Layout.tiles`."""
    if x_height_px is None or max_tiles < 2:
        return []
    blocks = columns(print_, x_height_px, frames)
    if len(blocks) > max_tiles:
        blocks = [_trimmed(print_, Box(0, 0, print_.shape[1], print_.shape[0]), x_height_px)]
    rows = [_part(print_, block).sum(axis=1) for block in blocks]
    lines = [_lines(profile, x_height_px) for profile in rows]
    widest = max(num_crops * CROP_PX / (block.right - block.left) for block in blocks)
    zoom = min(wanted_px / x_height_px, widest)
    while zoom >= _MIN_GAIN:
        enough = max(_MIN_GAIN, min(zoom, MIN_X_HEIGHT_PX / x_height_px))
        found = []
        for block, profile, runs in zip(blocks, rows, lines, strict=True):
            width = block.right - block.left
            grid = _grid(num_crops, enough * width)
            framed_width = max(width, grid.columns * CROP_PX / zoom)
            frame = Frame(framed_width / width, grid.columns / grid.rows)
            height = int(framed_width / frame.aspect)
            for top, bottom in _bands(profile, runs, height, math.ceil(_MARGIN * x_height_px)):
                box = Box(block.left, block.top + top, block.right, block.top + bottom)
                found.append(Tile(box, frame))
        if len(found) <= max_tiles:
            return found
        zoom *= 0.95
    return []


def _grid(num_crops: int, width_px: float) -> _Grid:
    """The squarest of the grids with at most `num_crops` that are so wide; else the widest."""
    grids = [_Grid(num_crops // rows, rows) for rows in range(math.isqrt(num_crops), 0, -1)]
    return next((grid for grid in grids if grid.columns * CROP_PX >= width_px), grids[-1])


def _bands(
    rows: np.ndarray, lines: list[tuple[int, int]], height: int, margin: int
) -> Iterator[tuple[int, int]]:
    """The fewest bands of at most `height` rows, as even as the lines allow.

    Args:
        rows: print in each row of a block.
        lines: first row of each line, and the one past its last.
        height: of a band with its margins.
        margin: kept above and below the lines of a band, where others leave room for it.
    """
    most = max(1, height - 2 * margin)
    least, bands = 1, _packed(rows, lines, most)
    while least < most:
        middle = (least + most) // 2
        found = _packed(rows, lines, middle)
        if len(found) <= len(bands):
            most, bands = middle, found
        else:
            least = middle + 1
    cuts = [(upper[1] + lower[0] + 1) // 2 for upper, lower in pairwise(bands)]
    for (start, end), above, below in zip(bands, [0, *cuts], [*cuts, len(rows)], strict=True):
        spare = max(margin, (height - (end - start)) // 2)  # page rather than white, while there is room
        yield max(above, start - spare), min(below, end + spare)


def _packed(rows: np.ndarray, lines: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Lines put together to bands of at most `most` rows, each as high as it can be."""
    bands: list[tuple[int, int]] = []
    for start, end in lines:
        while end - start > most:  # no line that can be told from the next
            cut = start + max(1, most // 2)
            cut += int(np.argmin(rows[cut : start + most + 1]))
            bands.append((start, cut))
            start = cut
        if bands and end - bands[-1][0] <= most:
            bands[-1] = bands[-1][0], end
        else:
            bands.append((start, end))
    return bands


def _lines(rows: np.ndarray, x_height_px: float) -> list[tuple[int, int]]:
    """Where rows of print begin and end between blank rows."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], rows > 0, [0])).astype(np.int8)))
    starts, ends = edges[::2].tolist(), edges[1::2].tolist()
    while len(starts) > 1:
        heights = [end - start for start, end in zip(starts, ends, strict=True)]
        low = int(np.argmin(heights))
        if heights[low] >= _MIN_LINE_HEIGHT * x_height_px:
            break
        above = starts[low] - ends[low - 1] if low else math.inf
        below = starts[low + 1] - ends[low] if low + 1 < len(starts) else math.inf
        upper = low - 1 if above < below else low
        del ends[upper], starts[upper + 1]
    return list(zip(starts, ends, strict=True))


def _split(solid: np.ndarray, box: Box, x_height_px: float) -> list[Box]:
    """Cut a box at its clearest gutter, and its parts again."""
    gutter = _gutter(solid, box, x_height_px)
    if gutter is None:
        return [box] if box.top < box.bottom else []
    parts = (
        box._replace(bottom=gutter.top),
        gutter._replace(left=box.left),
        gutter._replace(right=box.right),
        box._replace(top=gutter.bottom),
    )
    return [piece for part in parts for piece in _split(solid, part, x_height_px)]


def _gutter(page: np.ndarray, box: Box, x_height_px: float) -> Box | None:
    """The longest gutter in a box: its middle as `left` and `right`, and the rows through which it runs."""
    solid = _part(page, box)
    reach = max(1, round(_GUTTER_WIDTH * x_height_px / 2))
    inked = np.flatnonzero(solid.any(axis=1))
    if not len(inked) or solid.shape[1] < 2 * _MIN_COLUMN_WIDTH * x_height_px:
        return None
    first, last = int(inked[0]), int(inked[-1]) + 1
    # Where there is no ink within `reach` to the left and right.
    ahead = np.cumsum(np.pad(solid[first:last], ((0, 0), (reach + 1, reach))), axis=1, dtype=np.int32)
    free = ahead[:, 2 * reach + 1 :] == ahead[:, : -2 * reach - 1]
    run = np.zeros(free.shape[1], np.int32)
    longest, end = run.copy(), run.copy()
    for row, free_here in enumerate(free, 1):
        run = (run + 1) * free_here
        longer = run > longest
        longest[longer], end[longer] = run[longer], row
    for x in _candidates(longest, _GUTTER_SHARE * (last - first)):
        bottom = first + int(end[x])
        top = bottom - int(longest[x])
        top = 0 if top == first else _blank_row(solid, top, x_height_px)
        bottom = len(solid) if bottom == last else _blank_row(solid, bottom, x_height_px)
        if all(_is_column(part, x_height_px) for part in (solid[top:bottom, :x], solid[top:bottom, x:])):
            return Box(box.left + x, box.top + top, box.left + x, box.top + bottom)
    return None


def _candidates(longest: np.ndarray, least: float) -> list[int]:
    """The middles of the white bands that are long enough, the longest first."""
    found = []
    edges = np.flatnonzero(np.diff(np.concatenate(([0], longest >= least, [0])).astype(np.int8)))
    for start, end in edges.reshape(-1, 2):
        best = np.flatnonzero(longest[start:end] == longest[start:end].max()) + start
        found.append(int(best[len(best) // 2]))
    return sorted(found, key=lambda x: -int(longest[x]))


def _blank_row(solid: np.ndarray, row: int, x_height_px: float) -> int:
    """The row with the least ink close to `row`, the middle of them if there are several."""
    first = max(0, row - round(2 * x_height_px))
    ink = solid[first : row + round(2 * x_height_px) + 1].sum(axis=1)
    least = np.flatnonzero(ink == ink.min())
    return first + int(least[len(least) // 2])


def _is_column(solid: np.ndarray, x_height_px: float) -> bool:
    """Whether a part of a page is filled by lines as a column of text is."""
    inked = np.flatnonzero(solid.any(axis=0))
    if not len(inked) or (width := inked[-1] - inked[0] + 1) < _MIN_COLUMN_WIDTH * x_height_px:
        return False
    rows = np.flatnonzero(solid.any(axis=1))
    extents = solid.shape[1] - np.argmax(solid[rows, ::-1], axis=1) - np.argmax(solid[rows], axis=1)
    return float(np.median(extents)) >= _MIN_COLUMN_FILL * width


def _part(print_: np.ndarray, box: Box) -> np.ndarray:
    return print_[box.top : box.bottom, box.left : box.right]


def _trimmed(print_: np.ndarray, box: Box, x_height_px: float) -> Box:
    """The box without its white margins."""
    margin = math.ceil(_MARGIN * x_height_px)
    rows = np.flatnonzero(_part(print_, box).any(axis=1))
    across = np.flatnonzero(_part(print_, box).any(axis=0))
    return Box(
        max(box.left, box.left + int(across[0]) - margin),
        max(box.top, box.top + int(rows[0]) - margin),
        min(box.right, box.left + int(across[-1]) + 1 + margin),
        min(box.bottom, box.top + int(rows[-1]) + 1 + margin),
    )
