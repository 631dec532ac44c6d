"""What a picture costs on the host, and how many bytes reach the engine: our path beside the published one.

`python -m benchmarks.studies.image_path [--out DIR]`. Needs no GPU and no server.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from phi_vision.model.canvas import resize_and_pad
from PIL import Image

from benchmarks.harness import drawing, float_reference
from benchmarks.harness.machine import describe_machine, label

NUM_CROPS = 16
PICTURES = {
    "800x600": (drawing.invoice, "PNG"),
    "1920x1080": (drawing.photo, "JPEG"),
    "1240x1754": (drawing.page, "PNG"),
}


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock milliseconds of one call."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])  # the first call warms up


def measure(name: str, repeats: int) -> dict[str, Any]:
    """One row: milliseconds and bytes a picture, ours and the reference."""
    draw, image_format = PICTURES[name]
    image = draw(Random(name))
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    canvas = resize_and_pad(image, NUM_CROPS)
    crops, _ = float_reference.process(image, NUM_CROPS)
    ours_ms = median_ms(lambda: resize_and_pad(image, NUM_CROPS), repeats)
    reference_ms = median_ms(lambda: float_reference.process(image, NUM_CROPS), repeats)
    return {
        "picture": name,
        "num_crops": NUM_CROPS,
        "decode_ms": median_ms(lambda: Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"), repeats),
        "ours_ms": ours_ms,
        "reference_ms": reference_ms,
        "time_ratio": reference_ms / ours_ms,
        "ours_bytes": canvas.nbytes,
        "reference_bytes": crops.nbytes,
        "bytes_ratio": crops.nbytes / canvas.nbytes,
    }


def main() -> None:
    """Measure, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where image_path.json goes (default: results/image_path-<machine>.json)",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(name, options.repeats) for name in PICTURES]
    columns = [f"{name:>8}" for name in ("decode", "ours", "float", "ratio", "ours", "float", "ratio")]
    print(f"{'picture':<10}", *columns)
    for row in rows:
        times = [f"{row[key]:>5.1f} ms" for key in ("decode_ms", "ours_ms", "reference_ms")]
        sizes = [f"{row[key] / 1e6:>5.1f} MB" for key in ("ours_bytes", "reference_bytes")]
        ratios = [f"{row[key]:>8.1f}" for key in ("time_ratio", "bytes_ratio")]
        print(f"{row['picture']:<10}", *times, ratios[0], *sizes, ratios[1])
    machine = describe_machine()
    result = {"machine": machine, "threads": options.threads, "repeats": options.repeats, "pictures": rows}
    results = Path(__file__).parent / "results"
    path = options.out / "image_path.json" if options.out else results / f"image_path-{label(machine)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
