"""What of a file is to be seen: which page, turned how, and which part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Rotation = Literal[0, 90, 180, 270]  # degrees clockwise


class Region(NamedTuple):
    """A part of a page, in shares of its width and height from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class PageView:
    """A page as it is to be drawn.

    Args:
        page: its number in the file, from 0.
        rotation: degrees clockwise that the page is turned by, after what the file itself says.
        region: the part that is shown, of the page as it is turned; None for all of it.
    """

    page: int = 0
    rotation: Rotation = 0
    region: Region | None = None


WHOLE = Region(0, 0, 1, 1)
FIRST_PAGE = PageView()
