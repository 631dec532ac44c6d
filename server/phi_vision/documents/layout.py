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
from phi_vision.media.view import PageView, Region

__all__ = ["MIN_X_HEIGHT_PX", "Layout", "TextAxis", "grey_of", "page_of"]

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
        long, short = np.maximum(marks.width, marks.height), np.minimum(marks.width, marks.height)
        large = (long >= MIN_MARK_PX) & (short >= _MIN_STROKE_PX) & (marks.area >= _MIN_AREA_PX)
        other = _touches_rim(marks, self.grey.shape) | _is_rule(marks) | self._holes
        return not (large & ~other & (darkest >= _DARKEST * MIN_DARKNESS)).any()

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

    @cached_property
    def slant(self) -> float:
        """How far lines fall to the right, as a tangent; 0.0 where they are level, or none are to be seen."""
        return lines.slant(self._print)

    def tiles(self, max_tiles: int, num_crops: int, x_height_px: float = MIN_X_HEIGHT_PX) -> list[PageView]:
        """Parts of the page whose print is large enough when each is drawn on a grid of its own.

        Args:
            max_tiles: the most parts.
            num_crops: of the page as it is drawn here, and of each part.
            x_height_px: how high small letters are to be on the canvas of a part, in pixels.

        Returns:
            In reading order, disjoint, with all print in them; as few as make the print so high, or the best
            that `max_tiles` and the widths of the columns allow. Empty if the page is better read whole.
        """
        found = tiling.tiles(self._print, self.x_height_px, self._frames, max_tiles, num_crops, x_height_px)
        return [PageView(region=self._region(box), frame=frame) for box, frame in found]

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
    def _holes(self) -> np.ndarray:
        """Which marks are punch holes: discs; rings where there is another like them below or beside.

        They stand alone: in a heading, letters may be such discs and rings.
        """
        labels, marks = self._found
        candidates = np.flatnonzero(_is_round(marks))
        alone = [number for number in candidates.tolist() if not _is_letter(number, labels, marks)]
        round_ = np.zeros(len(marks), bool)
        round_[alone] = True
        discs = round_ & (marks.area >= _HOLE_FILL * marks.width * marks.height)
        return discs | _in_pairs(marks, round_ & ~discs)

    @cached_property
    def _frames(self) -> Marks:
        """Ruled frames and grids: what is inside is a table."""
        marks = self._found[1]
        return marks[_is_frame(marks)]

    @cached_property
    def _print(self) -> np.ndarray:
        """Where there is print: bool (h, w). Rules, frames, holes, dust and shadows are left out."""
        labels, marks = self._found
        kept = ~(_touches_rim(marks, self.grey.shape) | _is_rule(marks) | _is_frame(marks) | self._holes)
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


def _is_round(marks: Marks) -> np.ndarray:
    """Which marks are as large and as square as punch holes: bool (n,)."""
    shorter, longer = np.minimum(marks.width, marks.height), np.maximum(marks.width, marks.height)
    low, high = _HOLE_PX
    return (shorter >= low) & (longer <= high) & (longer <= 1.25 * shorter)


def _is_letter(number: int, labels: np.ndarray, marks: Marks) -> bool:
    """Whether a mark has another of about its height close beside it."""
    left, right, height = int(marks.left[number]), int(marks.right[number]), int(marks.height[number])
    rows, reach = slice(marks.top[number], marks.bottom[number]), height // 2
    beside = labels[rows, max(0, left - reach) : left], labels[rows, right : right + reach]
    others = np.unique(np.concatenate([part.ravel() for part in beside]))
    heights = marks.height[others[(others >= 0) & (others != number)]]
    return bool(((heights >= height / 2) & (heights <= 2 * height)).any())


def _in_pairs(marks: Marks, chosen: np.ndarray) -> np.ndarray:
    """Which of the chosen marks (bool) have another like them straight below or beside, far away."""
    found = np.zeros(len(marks), bool)
    numbers = np.flatnonzero(chosen)
    if 2 <= len(numbers) <= 64:
        x, y = (marks.left + marks.right)[numbers] / 2, (marks.top + marks.bottom)[numbers] / 2
        size = np.maximum(marks.width, marks.height)[numbers]
        across, down = np.abs(x[:, None] - x), np.abs(y[:, None] - y)
        alike = np.abs(size[:, None] - size) <= 0.15 * size
        straight = np.minimum(across, down) <= 0.06 * np.maximum(across, down)
        apart = np.maximum(across, down) >= (1 + _FEW_HOLES_APART) * size
        found[numbers[(alike & straight & apart).any(axis=1)]] = True
    return found
