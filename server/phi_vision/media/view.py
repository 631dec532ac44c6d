"""What of a file is to be seen: which page, how it lies, which part of it, with which margins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Rotation = Literal[0, 90, 180, 270]  # degrees clockwise


class Region(NamedTuple):
    """A part of a page, in shares of its width and height from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float


class Frame(NamedTuple):
    """White around a part of a page, which lies in the middle.

    Args:
        widths: how many times as wide as the part; more where it would be too low for the part.
        aspect: width to height.
    """

    widths: float
    aspect: float

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Of a framed part of this size, in whole pixels or other units.

        It is never narrower for its height than `aspect`, so that a frame of 5:3 fills a grid of 5 x 3 crops.
        """
        framed_width = max(width, math.ceil(width * self.widths), math.ceil(height * self.aspect))
        return framed_width, math.floor(framed_width / self.aspect)


@dataclass(frozen=True)
class PageView:
    """A page as it is to be drawn: turned, levelled, cut and framed, in this order.

    Args:
        page: its number in the file, from 0.
        rotation: degrees clockwise that the page is turned by, after what the file itself says.
        slant: how far the lines of the page so turned fall to the right, as a tangent; they are drawn level,
            and the page grows to hold its corners (`levelling.levelled_size`).
        region: the part that is shown, of the page as it is turned and levelled; None for all of it.
        frame: the part's margins; None for none.
    """

    page: int = 0
    rotation: Rotation = 0
    slant: float = 0.0
    region: Region | None = None
    frame: Frame | None = None


WHOLE = Region(0, 0, 1, 1)
FIRST_PAGE = PageView()
