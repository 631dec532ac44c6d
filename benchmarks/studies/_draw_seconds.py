"""Processor time to decode and resize the picture on stdin: the median of some, in seconds."""

from __future__ import annotations

import statistics
import sys
import time

from phi_vision.media.decode import PictureLimits, decode
from phi_vision.model.canvas import draw_canvas

from benchmarks.studies._front_end_server import NUM_CROPS

REPEATS = 7
LIMITS = PictureLimits(100_000_000)


def main() -> None:
    """Measure and print."""
    data = sys.stdin.buffer.read()
    times = []
    for _ in range(REPEATS):
        start = time.thread_time()
        draw_canvas(decode(data, LIMITS), NUM_CROPS)
        times.append(time.thread_time() - start)
    print(statistics.median(times))


if __name__ == "__main__":
    main()
