"""How a page is read: turned, level, in which parts, with which temperature; and what its print says."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace

from phi_vision.documents.layout import MIN_X_HEIGHT_PX, Layout, page_of
from phi_vision.documents.pages import PageSource, ReadOptions
from phi_vision.documents.readings import Reading
from phi_vision.media.view import WHOLE, PageView, Rotation
from phi_vision.model.canvas import Canvas

MAX_TILES = 16
"""The most parts that a page is read in where the client sets no number."""

CLOSER = 3.5
"""How much larger print becomes, at most, where a page in doubt is read in tiles."""

SMALL_PRINT_CHARS = 200
"""The least text that is looked at for small print."""


@dataclass(frozen=True, eq=False)
class Way:
    """How a page is read.

    Args:
        page: the whole page turned, as it slants.
        whole: how the whole page is drawn: turned and level.
        canvas: of `whole`.
        layout: likewise.
        views: the parts that are read; `whole` alone where there is one.
        temperature: of sampling.
    """

    page: Canvas = field(repr=False)
    whole: PageView
    canvas: Canvas = field(repr=False)
    layout: Layout = field(repr=False)
    views: tuple[PageView, ...]
    temperature: float

    @property
    def rotation(self) -> Rotation:
        """Degrees clockwise."""
        return self.whole.rotation

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to read. A page that was levelled has lines."""
        return not self.whole.slant and self.layout.is_blank

    @property
    def with_most_print(self) -> int:
        """The number of the part with the most ink."""
        height, width = self.layout.grey.shape

        def ink(view: PageView) -> int:
            left, top, right, bottom = view.region or WHOLE
            rows = slice(round(top * height), round(bottom * height))
            part = self.layout.grey[rows, round(left * width) : round(right * width)]
            return int((255 - part).sum(dtype="int64"))

        return max(range(len(self.views)), key=lambda number: ink(self.views[number]))


async def way_of(page: PageSource, rotation: Rotation, options: ReadOptions) -> Way:
    """The page turned and level, in as many parts as the client asks for.

    Raises:
        RequestError: it cannot be drawn.
    """
    whole = PageView(rotation=rotation)
    drawn = canvas = await page.canvas(whole, options.num_crops)
    layout = await asyncio.to_thread(_layout_of, canvas)
    if layout.slant and not layout.is_blank:
        whole = replace(whole, slant=layout.slant)
        canvas = await page.canvas(whole, options.num_crops)
        layout = await asyncio.to_thread(_layout_of, canvas)
    way = Way(drawn, whole, canvas, layout, (whole,), options.temperature)
    return way if options.tiles == "auto" else await in_parts(way, options)


async def in_parts(way: Way, options: ReadOptions) -> Way:
    """The same in parts that show its print larger; `way` itself where it cannot or must not be cut."""
    if options.tiles == "off" or "num_crops" in options.fixed:
        return way
    most = MAX_TILES if options.tiles == "auto" else options.tiles
    # As many tiles as the client wants cannot show the print larger than so many times.
    zoom = CLOSER if options.tiles == "auto" else float(most)

    def cut() -> list[PageView]:
        x_height_px = max(MIN_X_HEIGHT_PX, zoom * (way.layout.x_height_px or 0.0))
        return way.layout.tiles(most, options.num_crops, x_height_px)

    parts = await asyncio.to_thread(cut)
    views = tuple(replace(way.whole, region=part.region, frame=part.frame) for part in parts)
    return replace(way, views=views or (way.whole,))


def _layout_of(canvas: Canvas) -> Layout:
    layout = Layout(page_of(canvas))
    layout.is_blank, layout.slant  # noqa: B018 - computed here, in a thread, and kept
    return layout


def is_small_print(layout: Layout, reading: Reading) -> bool:
    """Whether print is too small for the page to be trusted as it was read whole.

    The height of a few letters cannot be measured well, and is not needed: small print is much print.
    """
    return len(reading.text) >= SMALL_PRINT_CHARS and (layout.x_height_px or math.inf) < MIN_X_HEIGHT_PX
