"""What each cell of 28 x 28 pixels shows: the truth behind the auxiliary losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_training.pictures import CHARACTERS, COLORS, SHAPES, Drawing

CELL_PX = 28
CELLS = 12  # along a side of a view

# Of a cell: the characters whose middles lie in it, left to right, then the one before and the one after.
GLYPH_SLOTS = 4 + 2
GLYPH_CLASSES = 1 + len(CHARACTERS)
# What has its middle in the cell: nothing, a shape, or print too small to read.
KINDS = ("", *SHAPES, "small print")
COLOR_CLASSES = 1 + len(COLORS)
IGNORED = -100

# So near to the border of two cells, in pixels of a view, a character is in both: none falls between them.
SHARED_PX = 1.5
_READ_PX = (20.0, 38.0)  # font sizes that the tower reads
_UNREAD_PX = (17.0, 46.0)  # below and above it sees no letters; between the two it may do either


@dataclass(frozen=True)
class Frame:
    """Where a view lies on its picture."""

    across: float  # view pixels per picture pixel
    down: float
    left: float  # view pixels from the view's left edge to the picture's
    top: float

    def cells(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Numbers of the cells in which places of the picture (pixels) lie, -1 outside of the view."""
        columns = np.floor((x * self.across + self.left) / CELL_PX).astype(int)
        rows = np.floor((y * self.down + self.top) / CELL_PX).astype(int)
        inside = (columns >= 0) & (columns < CELLS) & (rows >= 0) & (rows < CELLS)
        return np.where(inside, rows * CELLS + columns, -1)

    def reads(self, em_px: float) -> bool:
        """Whether print of this size in the picture is read in this view."""
        return (
            _READ_PX[0]
            <= em_px * min(self.across, self.down)
            <= em_px * max(self.across, self.down)
            <= _READ_PX[1]
        )


def glyph_labels(drawing: Drawing, frame: Frame) -> np.ndarray:
    """int64, (144, GLYPH_SLOTS); all ignored where the size is neither readable nor clearly not."""
    labels = np.zeros((CELLS**2, GLYPH_SLOTS), np.int64)
    printed = drawing.print
    if printed is None:
        return labels
    if not frame.reads(drawing.em_px):
        unread = not _UNREAD_PX[0] <= drawing.em_px * frame.across <= _UNREAD_PX[1]
        return labels if unread else np.full_like(labels, IGNORED)
    margin = SHARED_PX / frame.across
    left, right = (frame.cells(printed.x + shift, printed.y) for shift in (-margin, margin))
    inside = frame.cells(printed.x, printed.y) >= 0
    one, other = np.flatnonzero(inside & (left >= 0)), np.flatnonzero(inside & (right >= 0) & (left != right))
    cells, seen = np.concatenate([left[one], right[other]]), np.concatenate([one, other])
    order = np.lexsort((seen, cells))
    cells, seen = cells[order], seen[order]
    rank = np.arange(len(cells)) - np.searchsorted(cells, cells)
    labels[cells[rank == 0], -2] = printed.before[seen[rank == 0]]
    fits = rank < GLYPH_SLOTS - 2
    labels[cells[fits], rank[fits]] = printed.chars[seen[fits]]
    labels[cells, -1] = printed.after[seen]  # the last one stays
    return labels


def mark_labels(drawing: Drawing, frame: Frame) -> np.ndarray:
    """int64, (144, 2): of each cell what has its middle there (`KINDS`), and its shape's colour."""
    labels = np.zeros((CELLS**2, 2), np.int64)
    if drawing.print is not None:
        size = drawing.em_px * frame.across
        if size < _READ_PX[0]:
            cells = frame.cells(drawing.print.x, drawing.print.y)
            labels[cells[cells >= 0], 0] = KINDS.index("small print") if size < _UNREAD_PX[0] else IGNORED
        return labels
    rows, columns = np.divmod(np.arange(CELLS**2), CELLS)
    middle_x = (columns * CELL_PX + CELL_PX / 2 - frame.left) / frame.across  # in the picture
    middle_y = (rows * CELL_PX + CELL_PX / 2 - frame.top) / frame.down
    for shape in drawing.shapes:
        inside = (middle_x - shape.x) ** 2 + (middle_y - shape.y) ** 2 <= (shape.radius * 0.62) ** 2
        labels[inside, 1] = list(COLORS).index(shape.color) + 1
        cell = int(frame.cells(np.array([shape.x]), np.array([shape.y]))[0])
        if cell >= 0:
            labels[cell] = KINDS.index(shape.kind), list(COLORS).index(shape.color) + 1
    return labels
