"""Which way is up: the model reads a little of the page each way, and is surest where it stands upright."""

from __future__ import annotations

from collections.abc import Mapping

from phi_vision.documents.readings import Reading
from phi_vision.media.view import Rotation

ROTATIONS: tuple[Rotation, ...] = (0, 90, 180, 270)

LOOK_TOKENS = 40
"""Of the answer to a look; a few lines tell."""

LOOK_CROPS = 4
"""Of the page as a whole."""


def upright(looks: Mapping[Rotation, Reading]) -> Rotation | None:
    """The rotation in which the page was read with most confidence; None where it was read in none."""
    read = [(look.confidence, rotation) for rotation, look in looks.items() if look.confidence is not None]
    return max(read, key=lambda found: found[0])[1] if read else None
