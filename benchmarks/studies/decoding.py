"""What it costs to draw canvases in processes of their own, in ms a picture (medians).

python -m benchmarks.studies.decoding --output benchmarks/results/decoding.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from phi_vision.media.decode import PictureLimits, decode
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import resize_and_pad
from phi_vision.model.crops import CropLimit

from tests.support.pictures import encoded, reference_picture

LIMITS = PictureLimits(max_pixels=50_000_000)
LIMIT = CropLimit(16)
SIZES = {"800x600": 21, "4000x3000": 7, "8000x6000": 3}  # pixels -> repetitions


def median_ms(call: Callable[[], Any], repetitions: int) -> float:
    """The median wall time of a call."""
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e3, 1)


def _draw_here(data: bytes) -> None:
    resize_and_pad(decode(data, LIMITS), LIMIT.most)


def _draw_there(pool: WorkerPool, data: bytes) -> None:
    asyncio.run(pool.draw(data, LIMIT))


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pool = WorkerPool(LIMITS, workers=1, request_s=60)
    started = time.perf_counter()
    asyncio.run(pool.draw(encoded(reference_picture(8, 8, 0)), LIMIT))
    rows: dict[str, Any] = {"first_start_ms": round((time.perf_counter() - started) * 1e3, 1)}
    for size, repetitions in SIZES.items():
        width, height = map(int, size.split("x"))
        picture = reference_picture(width, height, seed=1)
        for image_format in ("JPEG", "PNG"):
            data = encoded(picture, image_format)
            here = median_ms(partial(_draw_here, data), repetitions)
            there = median_ms(partial(_draw_there, pool, data), repetitions)
            rows[f"{image_format} {size}"] = {"in_process_ms": here, "own_process_ms": there}
            print(f"{image_format:5} {size:10} in process {here:8.1f} ms   in its own {there:8.1f} ms")
    rows["load_average"] = psutil.getloadavg()[0]
    rows["command"] = "python -m benchmarks.studies.decoding " + " ".join(sys.argv[1:])
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
