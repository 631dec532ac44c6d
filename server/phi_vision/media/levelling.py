"""Draws pages whose lines slant so that they are level.

Places are complex numbers, `x + y * 1j`, x to the right and y down, in any unit.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

from PIL import Image

from phi_vision.media.view import Region


def levelled_size(width: float, height: float, slant: float) -> tuple[float, float]:
    """Of the upright box that holds a page whose lines fall by `slant` once they are level."""
    turn = cmath.rect(1, math.atan(abs(slant)))
    return width * turn.real + height * turn.imag, height * turn.real + width * turn.imag


@dataclass(frozen=True)
class SlantingPart:
    """Where an upright part of a levelled page lies on the page as it was.

    Args:
        corner: its upper left one.
        turn: the direction of its lines, of length 1.
        width: of the part.
        height: likewise.
    """

    corner: complex
    turn: complex
    width: float
    height: float

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the upright box around it."""
        sides = (0, self.width, self.height * 1j, self.width + self.height * 1j)
        corners = [self.corner + side * self.turn for side in sides]
        across, down = [place.real for place in corners], [place.imag for place in corners]
        return min(across), min(down), max(across), max(down)

    def draw(self, picture: Image.Image, origin: complex, zoom: float, size: tuple[int, int]) -> Image.Image:
        """The part, level, white where the picture has nothing.

        Args:
            picture: of the page or of a piece of it, RGB.
            origin: the upper left corner of this picture on the page.
            zoom: pixels of it a unit.
            size: pixels of the result, at the same zoom.
        """
        corner = (self.corner - origin) * zoom
        return picture.transform(
            size,
            Image.Transform.AFFINE,
            (self.turn.real, -self.turn.imag, corner.real, self.turn.imag, self.turn.real, corner.imag),
            Image.Resampling.BILINEAR,
            fillcolor="white",
        )


def slanting_part(width: float, height: float, slant: float, region: Region) -> SlantingPart:
    """A region of the levelled page, which turns about its middle.

    Args:
        width: of the page as it was.
        height: likewise.
        slant: how far its lines fall to the right, as a tangent.
        region: in shares of `levelled_size`.
    """
    level = complex(*levelled_size(width, height, slant))
    turn = cmath.rect(1, math.atan(slant))
    corner = complex(region.left * level.real, region.top * level.imag)
    return SlantingPart(
        (corner - level / 2) * turn + complex(width, height) / 2,
        turn,
        (region.right - region.left) * level.real,
        (region.bottom - region.top) * level.imag,
    )
