"""How a page is read: turned, in which parts, with which temperature; and what its print says about that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from phi_vision.documents.layout import MIN_X_HEIGHT_PX, Layout, page_of
from phi_vision.documents.readings import Reading
from phi_vision.media.view import Region, Rotation
from phi_vision.model.canvas import Canvas

SMALL_PRINT_CHARS = 200
"""The least text that is looked at for small print."""


@dataclass(frozen=True, eq=False)
class Way:
    """How the page is read.

    Args:
        rotation: degrees clockwise that it is turned by.
        canvas: of the whole page.
        layout: of the whole page.
        regions: the parts that it is read in.
        temperature: of sampling.
    """

    rotation: Rotation
    canvas: Canvas = field(repr=False)
    layout: Layout = field(repr=False)
    regions: tuple[Region, ...]
    temperature: float

    @property
    def with_most_print(self) -> int:
        """The number of the region with the most ink."""
        height, width = self.layout.grey.shape

        def ink(number: int) -> int:
            left, top, right, bottom = self.regions[number]
            rows = slice(round(top * height), round(bottom * height))
            part = self.layout.grey[rows, round(left * width) : round(right * width)]
            return int((255 - part).sum(dtype="int64"))

        return max(range(len(self.regions)), key=ink)


def layout_of(canvas: Canvas) -> Layout:
    """The layout of a page, with what takes long computed: call it in a thread."""
    layout = Layout(page_of(canvas))
    layout.is_blank  # noqa: B018 - computed here and kept
    return layout


def is_small_print(layout: Layout, reading: Reading) -> bool:
    """Whether print is too small for the page to be trusted as it was read whole.

    The height of a few letters cannot be measured well, and is not needed: small print is much print.
    """
    return len(reading.text) >= SMALL_PRINT_CHARS and (layout.x_height_px or math.inf) < MIN_X_HEIGHT_PX
