"""Which way is up: the model reads a little of the page each way, and is surest where it stands upright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from phi_vision.documents.readings import Reading
from phi_vision.media.view import Rotation

ROTATIONS: tuple[Rotation, ...] = (0, 90, 180, 270)

LOOK_TOKENS = 40
"""Of the answer to a look; a few lines tell."""

LOOK_CROPS = 4
"""Of the page as a whole."""


def upright(looks: Sequence[Mapping[Rotation, Reading]]) -> Rotation | None:
    """The rotation in which the page was read with most confidence; None where it was read in none.

    Args:
        looks: at the page in each rotation, of one kind or several, which count alike.
    """
    found: dict[Rotation, float] = {}
    for rotation in ROTATIONS:
        confidences = [look[rotation].confidence for look in looks]
        read = [confidence for confidence in confidences if confidence is not None]
        if read:
            found[rotation] = fmean(read)
    return max(found, key=found.__getitem__, default=None)
