"""What a picture costs the host: measured, and taken as it is for any machine's cores.

Not measured at each start: on a shared machine a core was found four times as slow from one half of an hour
to the next, and how many processes there are must not depend on the load of that moment. The figures are of
`benchmarks/results/front_end.json`, which names the machine; a test compares them. They are of 16 crops;
fewer cost less, which is not counted. What measures a machine: `python -m benchmarks.studies.front_end`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PictureKind:
    """A picture that the front end was measured with."""

    name: str
    width: int
    height: int
    draw_ms: float  # processor time of a picture worker: decoded, and resized onto its canvas
    receive_ms: float  # of an API process: from the socket to the engine, and the answer back


KINDS = (
    PictureKind("800x600 JPEG", 800, 600, draw_ms=14.4, receive_ms=6.9),
    PictureKind("1240x1754 PNG", 1240, 1754, draw_ms=38.7, receive_ms=8.6),
    PictureKind("4000x3000 JPEG", 4000, 3000, draw_ms=102.9, receive_ms=15.9),
)
