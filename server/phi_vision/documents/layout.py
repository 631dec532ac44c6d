"""How a page is laid out, from its pixels alone: blank or not, how large its print is, where it can be cut.

Everything is measured on `grey`, the brightness of a page as drawn on its canvas without the white padding
(`page_of`), uint8 (h, w). Regions are shares of it.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from phi_vision.documents import lines, tiling
from phi_vision.documents.ink import MIN_DARKNESS, Marks, darkness, find_marks, grey_of, page_of
from phi_vision.documents.tiling import MIN_X_HEIGHT_PX
from phi_vision.media.view import Region

__all__ = [
    "MIN_X_HEIGHT_PX",
    "Layout",
    "TextAxis",
    "columns",
    "grey_of",
    "ink_share",
    "is_blank",
    "page_of",
    "text_axis",
    "tiles",
    "x_height_px",
]

# The smallest mark that can be a character, in pixels of a page at 16 crops: there 0.4 mm of dust on A4 is
# 2 pixels, and the figures of 6-point print are 7 high.
MIN_MARK_PX = 5
_MIN_STROKE_PX = 2
_MIN_AREA_PX = 11
_DARKEST = 1.4  # times `MIN_DARKNESS`: what the darkest pixel of a mark has at least, unless it is noise
_HOLE_PX = (12, 64)  # across; 6 mm on A4 are 27
_HOLE_FILL = 0.70  # of its box; a disc fills 0.79
_FEW_HOLES_APART = 4.0  # diameters between the rims of two holes, which tells them from the letters "oo"
_RULE_ASPECT = 8.0  # a rule is so much longer than thick
_RULE_PX = 3.0  # and so thick at most
_FRAME_FILL = 0.15  # of its box that the ink of a frame or a grid covers at most
_FRAME_PX = 100
_LETTER_HEIGHT = 0.45  # of the usual mark; below are points and dashes


class TextAxis(NamedTuple):
    """Whether lines run down the page, as they do when it lies on its side, and how sure that is (0 to 1)."""

    vertical: bool
    certainty: float


class Layout:
    """What is known of one page; each fact is computed when it is first asked for.

    Args:
        grey: uint8 (h, w), see the module.
    """

    def __init__(self, grey: np.ndarray) -> None:
        self.grey = grey

    @cached_property
    def ink_share(self) -> float:
        """Share of the page that is ink, from 0 to 1."""
        return float((self._found[0] >= 0).mean())

    @cached_property
    def is_blank(self) -> bool:
        """Whether there is nothing to read: only dust, punch holes, folds, rules, and what touches the rim.

        Print fainter than `MIN_DARKNESS` counts as shining through. When unsure, a page is not blank.
        """
        labels, marks = self._found
        darkest = np.zeros(len(marks), np.uint8)
        np.maximum.at(darkest, labels[labels >= 0], self._darkness[labels >= 0])
        return not (_characters(marks, self.grey.shape) & (darkest >= _DARKEST * MIN_DARKNESS)).any()

    @cached_property
    def x_height_px(self) -> float | None:
        """The median height of small letters; of capitals where there are no others. None without lines."""
        return lines.x_height_px(self._letters)

    @cached_property
    def text_axis(self) -> TextAxis:
        """Whether lines run across the page or down."""
        across, down = lines.neighbours(find_marks(self._print)[1])
        return TextAxis(down > across, abs(across - down) / max(1, across + down))

    @cached_property
    def columns(self) -> list[Region]:
        """Blocks of print that clear gutters keep apart, and what spans them, in reading order."""
        boxes = tiling.columns(self._print, self.x_height_px, self._frames)
        return [self._region(box) for box in boxes]

    def tiles(self, max_tiles: int, min_x_height_px: float = MIN_X_HEIGHT_PX) -> list[Region]:
        """Parts of the page whose print is large enough when each is drawn on a grid of its own.

        Args:
            max_tiles: the most parts.
            min_x_height_px: how high small letters are to be on the canvas of a part, in pixels.

        Returns:
            In reading order, disjoint, with all print in them; as few as make the print so high, or the best
            that `max_tiles` can do. Empty if the page is better read whole.
        """
        boxes = tiling.tiles(self._print, self.x_height_px, self._frames, max_tiles, min_x_height_px)
        return [self._region(box) for box in boxes]

    def _region(self, box: tiling.Box) -> Region:
        height, width = self.grey.shape
        return Region(box.left / width, box.top / height, box.right / width, box.bottom / height)

    @cached_property
    def _darkness(self) -> np.ndarray:
        return darkness(self.grey)

    @cached_property
    def _found(self) -> tuple[np.ndarray, Marks]:
        return find_marks(self._darkness >= MIN_DARKNESS)

    @cached_property
    def _frames(self) -> Marks:
        """Ruled frames and grids: what is inside is a table."""
        marks = self._found[1]
        return marks[_is_frame(marks)]

    @cached_property
    def _print(self) -> np.ndarray:
        """Where there is print: bool (h, w). Rules, frames, holes, dust and shadows are left out."""
        labels, marks = self._found
        kept = ~(_touches_rim(marks, self.grey.shape) | _is_rule(marks) | _is_frame(marks) | _is_hole(marks))
        kept &= np.maximum(marks.width, marks.height) >= _MIN_STROKE_PX
        print_ = np.append(kept, False)[labels]
        if not print_.any():
            return print_
        # Half of what full ink is on this page is where a blurred stroke has its edge.
        return print_ & (self._darkness >= np.percentile(self._darkness[print_], 90) / 2)

    @cached_property
    def _letters(self) -> np.ndarray:
        """`_print` without what is low beside the letters: dots of leaders, dashes, points."""
        labels, marks = find_marks(self._print)
        if not len(marks):
            return self._print
        by_height = np.argsort(marks.height)
        room = np.cumsum((marks.width * marks.height)[by_height])
        usual = marks.height[by_height][np.searchsorted(room, room[-1] / 2)]
        return np.append(marks.height >= _LETTER_HEIGHT * usual, False)[labels]


def ink_share(grey: np.ndarray) -> float:
    """Share of the page that is ink, from 0 to 1."""
    return Layout(grey).ink_share


def is_blank(grey: np.ndarray) -> bool:
    """`Layout.is_blank` of a page."""
    return Layout(grey).is_blank


def x_height_px(grey: np.ndarray) -> float | None:
    """`Layout.x_height_px` of a page."""
    return Layout(grey).x_height_px


def text_axis(grey: np.ndarray) -> TextAxis:
    """`Layout.text_axis` of a page."""
    return Layout(grey).text_axis


def columns(grey: np.ndarray) -> list[Region]:
    """`Layout.columns` of a page."""
    return Layout(grey).columns


def tiles(grey: np.ndarray, max_tiles: int, min_x_height_px: float = MIN_X_HEIGHT_PX) -> list[Region]:
    """`Layout.tiles` of a page."""
    return Layout(grey).tiles(max_tiles, min_x_height_px)


def _characters(marks: Marks, shape: tuple[int, ...]) -> np.ndarray:
    """Which marks may be characters or pictures: bool (n,)."""
    long, short = np.maximum(marks.width, marks.height), np.minimum(marks.width, marks.height)
    large = (long >= MIN_MARK_PX) & (short >= _MIN_STROKE_PX) & (marks.area >= _MIN_AREA_PX)
    return large & ~(_touches_rim(marks, shape) | _is_rule(marks) | _is_hole(marks))


def _touches_rim(marks: Marks, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape
    return (marks.left == 0) | (marks.top == 0) | (marks.right == width) | (marks.bottom == height)


def _is_rule(marks: Marks) -> np.ndarray:
    """Straight thin lines: rules, folds, dust on the scanner's glass."""
    long, short = np.maximum(marks.width, marks.height), np.minimum(marks.width, marks.height)
    thick = marks.area / np.maximum(long, 1)
    return (long >= _RULE_ASPECT * thick) & (thick <= _RULE_PX) & (short <= 0.06 * long + 2 * _RULE_PX)


def _is_frame(marks: Marks) -> np.ndarray:
    large = (marks.width >= _FRAME_PX) & (marks.height >= _FRAME_PX)
    return large & (marks.area <= _FRAME_FILL * marks.width * marks.height)


def _is_hole(marks: Marks) -> np.ndarray:
    """Punch holes: discs, or rings that have another like them straight below or beside, far away."""
    width, height = marks.width, marks.height
    low, high = _HOLE_PX
    round_ = (np.minimum(width, height) >= low) & (np.maximum(width, height) <= high)
    round_ &= np.maximum(width, height) <= 1.25 * np.minimum(width, height)
    holes = round_ & (marks.area >= _HOLE_FILL * width * height)
    rings = np.nonzero(round_ & ~holes)[0]
    if 2 <= len(rings) <= 64:
        x, y = (marks.left + marks.right)[rings] / 2, (marks.top + marks.bottom)[rings] / 2
        size = np.maximum(width, height)[rings]
        across, down = np.abs(x[:, None] - x), np.abs(y[:, None] - y)
        alike = np.abs(size[:, None] - size) <= 0.15 * size
        straight = np.minimum(across, down) <= 0.06 * np.maximum(across, down)
        apart = np.maximum(across, down) >= (1 + _FEW_HOLES_APART) * size
        holes[rings[(alike & straight & apart).any(axis=1)]] = True
    return holes
