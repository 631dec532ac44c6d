"""What a picture costs the host: measured, and taken as it is for any machine's cores.

Not measured at each start: on a shared machine a core was found four times as slow from one half of an hour
to the next, and how many processes there are must not depend on the load of that moment. What measures a
machine: `python -m benchmarks.studies.front_end`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Processor time in ms: for the file, and for each crop of the canvas."""

    file_ms: float
    crop_ms: float

    def seconds(self, crops: int) -> float:
        """For a canvas of so many crops."""
        return (self.file_ms + self.crop_ms * crops) / 1000


@dataclass(frozen=True)
class PictureKind:
    """A picture that the front end was measured with."""

    name: str
    width: int
    height: int
    draw: Cost  # of a picture worker: from the file to its canvas
    receive: Cost  # of an API process: from the socket to the engine, and the answer back


KINDS = (
    PictureKind("800x600 JPEG", 800, 600, Cost(4.0, 0.7), Cost(4.5, 0.2)),
    PictureKind("1240x1754 PNG", 1240, 1754, Cost(25.0, 0.7), Cost(7.0, 0.2)),
    PictureKind("4000x3000 JPEG", 4000, 3000, Cost(115.0, 0.9), Cost(15.0, 0.2)),
)
