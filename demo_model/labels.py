"""What each cell of 28 x 28 pixels shows: the truth behind the auxiliary loss."""

from __future__ import annotations

import numpy as np

from demo_model.pictures import COLORS, GLYPHS, SHAPES, Drawing

# Of a cell: the glyphs whose middles lie in it, left to right, then the one before and the one after.
GLYPH_SLOTS = 4 + 2
GLYPH_CLASSES = 1 + len(GLYPHS) + 1  # none, glyphs, space
SHAPE_CLASSES = 1 + len(SHAPES)
COLOR_CLASSES = 1 + len(COLORS)
IGNORED = -100

_GLYPH_ID = {"": 0, **{glyph: i + 1 for i, glyph in enumerate(GLYPHS)}, " ": len(GLYPHS) + 1}
_LEGIBLE_PX = (12.0, 60.0)  # font sizes that a cell is held to account for


def glyph_labels(drawing: Drawing, scale: tuple[float, float], left: float, top: float) -> np.ndarray:
    """Labels of one view of a text.

    Args:
        drawing: with its glyphs in picture pixels.
        scale: view pixels per picture pixel, across and down.
        left: view pixels from the view's left edge to the picture's.
        top: the same from the upper edge.

    Returns:
        int64, (144, GLYPH_SLOTS); all ignored where the text is too small or too large to be read here.
    """
    em_px = drawing.em * max(drawing.image.size) / 336
    if em_px * min(scale) < _LEGIBLE_PX[0] or em_px * max(scale) > _LEGIBLE_PX[1]:
        return np.full((144, GLYPH_SLOTS), IGNORED, np.int64)
    labels = np.zeros((144, GLYPH_SLOTS), np.int64)
    filled = np.zeros(144, np.int64)
    for glyph in drawing.glyphs:
        x, y = glyph.x * scale[0] + left, glyph.y * scale[1] + top
        if not (0 <= x < 336 and 0 <= y < 336):
            continue
        cell = int(y // 28) * 12 + int(x // 28)
        if filled[cell] == 0:
            labels[cell, -2] = _GLYPH_ID[glyph.before]
        if filled[cell] < GLYPH_SLOTS - 2:
            labels[cell, filled[cell]] = _GLYPH_ID[glyph.char]
        labels[cell, -1] = _GLYPH_ID[glyph.after]
        filled[cell] += 1
    return labels


def shape_labels(drawing: Drawing, scale: tuple[float, float], left: float, top: float) -> np.ndarray:
    """int64, (144, 2): shape and colour of the cells that lie in the middle of one, else none."""
    labels = np.zeros((144, 2), np.int64)
    rows, columns = np.divmod(np.arange(144), 12)
    for shape in drawing.shapes:
        dx = (columns * 28 + 14 - shape.x * scale[0] - left) / scale[0]
        dy = (rows * 28 + 14 - shape.y * scale[1] - top) / scale[1]
        inside = dx**2 + dy**2 <= max(shape.radius * 0.62, 14 / min(scale)) ** 2
        labels[inside] = (SHAPES.index(shape.kind) + 1, list(COLORS).index(shape.color) + 1)
    return labels
