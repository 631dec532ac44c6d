"""Lines of print from the rows of a page: how they slant, and how high their small letters are."""

from __future__ import annotations

import numpy as np

from phi_vision.documents.ink import Marks

_BLOCK_PX = 16  # columns that are summed; a slant of 3 degrees moves a line by less than a pixel in them
_MAX_SLANT = 0.07  # tangent: 4 degrees
_MIN_SLANT = 0.002  # less is none: 2 pixels across a page of 1,000
_CLEARER = 1.1  # the contrast of rows along the lines to that of level rows, at least, where lines slant
_GROUP_BLOCKS = 8  # the width in which a line is measured
_ASKED = 400  # marks
_FAR_PX = 1 << 20
_MIN_ROWS = 2.0


def x_height_px(print_: np.ndarray) -> float | None:
    """The median height of small letters, of capitals where there are no others, in pixels.

    Args:
        print_: bool (h, w), where there is print.

    Returns:
        None without lines.
    """
    if not print_.any():
        return None
    blocks = _straightened(print_)
    heights, weights = [], []
    for first in range(0, blocks.shape[1], _GROUP_BLOCKS):
        rows = blocks[:, first : first + _GROUP_BLOCKS].sum(axis=1)
        if not rows.any():
            continue
        for run_heights, run_weights in _runs(rows):
            heights.append(run_heights)
            weights.append(run_weights)
    height, weight = np.array(heights), np.array(weights)
    if not len(height):
        return None
    order = np.argsort(height)
    total = np.cumsum(weight[order])
    return float(height[order][np.searchsorted(total, total[-1] / 2)])


def slant(print_: np.ndarray) -> float:
    """How far lines fall to the right: the tangent, at most 0.07 up or down; 0.0 where that is not clear."""
    blocks = _blocks(print_)

    def contrast(tangent: float) -> float:
        return float((np.diff(_shifted(blocks, tangent).sum(axis=1)) ** 2).sum())

    best = max(np.arange(-_MAX_SLANT, _MAX_SLANT + 0.001, 0.007).tolist(), key=contrast)
    best = max((best + np.arange(-0.006, 0.0065, 0.001)).tolist(), key=contrast)
    is_clear = abs(best) >= _MIN_SLANT and contrast(best) > _CLEARER * contrast(0.0)
    return float(best) if is_clear else 0.0


def neighbours(marks: Marks) -> tuple[int, int]:
    """How many marks have their nearest neighbour beside them, and how many above or below.

    Letters stand closer in a line than lines do to each other. A sample of the marks is asked.
    """
    asked = np.unique(np.linspace(0, len(marks) - 1, _ASKED).astype(int)) if len(marks) else np.zeros(0, int)
    apart = []
    for low, high, other_low, other_high in (
        (marks.left, marks.right, marks.top, marks.bottom),
        (marks.top, marks.bottom, marks.left, marks.right),
    ):
        gap = np.maximum(low - high[asked, None], low[asked, None] - high)
        beside = np.minimum(other_high, other_high[asked, None]) > np.maximum(
            other_low, other_low[asked, None]
        )
        apart.append(np.where(beside & (gap >= 0), gap, _FAR_PX).min(axis=1, initial=_FAR_PX))
    across, down = apart
    return int((across < down).sum()), int((down < across).sum())


def _blocks(print_: np.ndarray) -> np.ndarray:
    """Pixels of print in each row of each block of columns: float32 (h, blocks)."""
    height, width = print_.shape
    padded = np.pad(print_, ((0, 0), (0, -width % _BLOCK_PX)))
    return padded.reshape(height, -1, _BLOCK_PX).sum(axis=2, dtype=np.int32).astype(np.float32)


def _straightened(print_: np.ndarray) -> np.ndarray:
    return _shifted(_blocks(print_), slant(print_))


def _shifted(blocks: np.ndarray, tangent: float) -> np.ndarray:
    """Blocks moved up or down so that lines that fall by `tangent` become level. Rows wrap around."""
    height, count = blocks.shape
    shift = np.round((np.arange(count) - count / 2) * _BLOCK_PX * tangent).astype(int)
    return blocks[(np.arange(height)[:, None] + shift) % height, np.arange(count)]


def _runs(rows: np.ndarray) -> list[tuple[float, float]]:
    """Height and width in ink of each line in a profile of rows."""
    found = []
    level = 0.5 * float((rows**2).sum() / rows.sum())
    inside = np.flatnonzero(np.diff(np.concatenate(([0], rows >= level, [0])).astype(np.int8)))
    padded = np.concatenate(([0.0], rows, [0.0]))
    for start, end in inside.reshape(-1, 2):
        before, first, last, after = padded[start], padded[start + 1], padded[end], padded[end + 1]
        height = end - start - 1 + (first - level) / (first - before) + (last - level) / (last - after)
        if height >= _MIN_ROWS:
            found.append((float(height), float(rows[start:end].mean())))
    return found
