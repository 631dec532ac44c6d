"""Where a page can be cut: at gutters between columns, and at blank rows between lines.

Cuts are straight and level. On a page that slants so much that no level row is blank, a cut follows the row
with the least ink and may go through a line.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from phi_vision.documents.ink import Marks
from phi_vision.model.geometry import crop_grid
from phi_vision.spec import PHI_3_5_VISION

MIN_X_HEIGHT_PX = 8.0  # of small letters on the canvas, below which the model misreads print
_MIN_GAIN = 1.1  # of the print's size; cutting a page for less is not worth its cost

# A gutter, in heights of small letters unless named otherwise. Spaces between words are half a height wide.
_GUTTER_WIDTH = 2.0
_GUTTER_SHARE = 0.6  # of the height of the print that it runs through without a break
_MIN_COLUMN_WIDTH = 12.0
_MIN_COLUMN_FILL = (
    0.55  # of a column's width that its usual row of print takes; the cells of a table take less
)
_MAX_SLANT = 0.07  # of a gutter: 4 degrees, as a tangent
_MARGIN = 1.5  # kept around the print, for points and accents too small to be marks
_MIN_LINE_HEIGHT = 0.6  # lower pieces are accents and dots: no cut parts them from their line


class Box(NamedTuple):
    """A part of a page, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


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
    print_: np.ndarray, x_height_px: float | None, frames: Marks, max_tiles: int, min_x_height_px: float
) -> list[Box]:
    """Boxes whose print is large enough when each is drawn on a grid of its own, see `Layout.tiles`."""
    if x_height_px is None or x_height_px >= min_x_height_px or max_tiles < 2:
        return []
    blocks = columns(print_, x_height_px, frames)
    whole = Box(0, 0, print_.shape[1], print_.shape[0])
    single = _trimmed(print_, whole, x_height_px)
    if len(blocks) > max_tiles:
        blocks = [single]
    cuts = [_gaps(_part(print_, block).sum(axis=1), x_height_px) for block in blocks]
    now = _scale(whole)
    wanted = min_x_height_px / x_height_px * now
    while wanted > _MIN_GAIN * now:
        bands = [_bands(print_, block, gaps, wanted) for block, gaps in zip(blocks, cuts, strict=True)]
        if sum(map(len, bands)) <= max_tiles:
            return [band for block in bands for band in block]
        wanted *= 0.95
    return []


def _scale(box: Box) -> float:
    """How much a box is enlarged on a grid of its own, in pixels of the canvas for each of the box's."""
    width, height = box.right - box.left, box.bottom - box.top
    return crop_grid(width, height, PHI_3_5_VISION.max_num_crops).resized_width / width


def _bands(print_: np.ndarray, block: Box, gaps: np.ndarray, scale: float) -> list[Box]:
    """The fewest bands of a block that each reach `scale`, as even as its gaps allow."""
    width, height = block.right - block.left, block.bottom - block.top
    highest = _highest_band(width, height, scale)
    rows = _part(print_, block).sum(axis=1)
    edges = _cut(rows, gaps, highest)
    least, most = math.ceil(height / (len(edges) - 1)), highest
    while least < most:
        middle = (least + most) // 2
        if len(_cut(rows, gaps, middle)) <= len(edges):
            most = middle
        else:
            least = middle + 1
    edges = _cut(rows, gaps, most)
    return [
        Box(block.left, block.top + top, block.right, block.top + bottom) for top, bottom in pairwise(edges)
    ]


def _highest_band(width: int, height: int, scale: float) -> int:
    """The most rows of a band that reaches `scale`; at least one."""
    least, most = 1, height
    while least < most:
        middle = (least + most + 1) // 2
        if _scale(Box(0, 0, width, middle)) >= scale:
            least = middle
        else:
            most = middle - 1
    return least


def _cut(rows: np.ndarray, gaps: np.ndarray, highest: int) -> list[int]:
    """Edges of bands of at most `highest` rows each, cut as late as possible, at gaps where there are any."""
    edges = [0]
    while len(rows) - edges[-1] > highest:
        start = edges[-1]
        within = gaps[(gaps > start) & (gaps <= start + highest)]
        if len(within):
            edges.append(int(within[-1]))
        else:
            from_row = start + max(1, highest // 2)
            edges.append(from_row + int(np.argmin(rows[from_row : start + highest + 1])))
    return [*edges, len(rows)]


def _gaps(rows: np.ndarray, x_height_px: float) -> np.ndarray:
    """The middles of the blank rows between lines."""
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
    return np.array([(end + start + 1) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)], int)


def _split(solid: np.ndarray, box: Box, x_height_px: float) -> list[Box]:
    """Cut a box at its clearest gutter, and its parts again."""
    if box.bottom <= box.top:
        return []
    gutter = _gutter(solid, box, x_height_px)
    if gutter is None:
        return [box]
    # A slanting gutter goes on beside itself, in straight pieces: the columns go on too.
    gutters = [gutter]
    while above := _gutter(solid, box._replace(bottom=gutters[0].top), x_height_px):
        if not _goes_on(solid, box, above, gutters[0], x_height_px):
            break
        gutters.insert(0, above)
    while below := _gutter(solid, box._replace(top=gutters[-1].bottom), x_height_px):
        if not _goes_on(solid, box, gutters[-1], below, x_height_px):
            break
        gutters.append(below)
    tops = [gutters[0].top, *(lower.top for lower in gutters[1:]), gutters[-1].bottom]
    lefts = [
        Box(box.left, top, gutter.left, bottom)
        for gutter, (top, bottom) in zip(gutters, pairwise(tops), strict=True)
    ]
    rights = [left._replace(left=left.right, right=box.right) for left in lefts]
    inner = [piece for part in (*lefts, *rights) for piece in _split(solid, part, x_height_px)]
    before = _split(solid, box._replace(bottom=tops[0]), x_height_px)
    return [*before, *inner, *_split(solid, box._replace(top=tops[-1]), x_height_px)]


def _goes_on(solid: np.ndarray, box: Box, upper: Box, lower: Box, x_height_px: float) -> bool:
    """Whether two gutters are pieces of one: nothing spans the page between them, and they are near."""
    near = (
        abs(upper.left - lower.left) <= _MAX_SLANT * (lower.bottom - upper.top) + _GUTTER_WIDTH * x_height_px
    )
    return near and not solid[upper.bottom : lower.top, box.left : box.right].any()


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
        top, bottom = _blank_row(solid, top, x_height_px), _blank_row(solid, bottom, x_height_px)
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
    if row in (0, len(solid)):
        return row  # the edge of the box, which may end with its last line of print
    first = max(0, row - round(2 * x_height_px))
    ink = solid[first : row + round(2 * x_height_px) + 1].sum(axis=1)
    least = np.flatnonzero(ink == ink.min())
    return first + int(least[np.argmin(np.abs(least + first - row))])


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
