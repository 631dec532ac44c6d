"""Ideal times (`phi_vision.planning.roofline`) beside measured ones: what share of them a server reaches.

`python -m benchmarks.harness.roofline [--gpu a10]` prints the ideal ones of the published model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from phi_vision.model.crops import CropPolicy
from phi_vision.model.geometry import crop_grid
from phi_vision.planning.front_end import QUESTION_TOKENS
from phi_vision.planning.gpus import GPU_NAMES, named_gpu, rates_of
from phi_vision.planning.roofline import Rates, limit

from benchmarks.harness.workloads import WORKLOADS


def crops_of(width: int, height: int, num_crops: int) -> int:
    """Crops that the tower sees of a picture, the global view included."""
    grid = crop_grid(width, height, num_crops)
    return grid.rows * grid.columns + 1


def compare(rates: Rates, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ideal beside measured, a row a run with distinct pictures; `share` is ideal over measured.

    The ideal TTFT is that of one request alone, so it stands only beside concurrency 1; the ideal time
    between tokens is that of a batch of all requests in flight.
    """
    rows = []
    for run in runs:
        sizes = WORKLOADS[run["workload"]].sizes
        if not run["distinct_pictures"] or run["concurrency"] is None or not run.get("itl_ms"):
            continue
        num_crops = CropPolicy.single if len(sizes) == 1 else CropPolicy.multi
        crops = sum(crops_of(width, height, num_crops) for width, height in sizes)
        one = limit(rates, crops, round(run["prompt_tokens"]), run["concurrency"])
        alone = run["concurrency"] == 1
        rows.append(
            {
                "workload": run["workload"],
                "concurrency": run["concurrency"],
                "ideal_ttft_ms": one.ttft_ms if alone else None,
                "ttft_p50_ms": run["ttft_ms"]["p50"],
                "ttft_share": one.ttft_ms / run["ttft_ms"]["p50"] if alone else None,
                "ideal_itl_ms": one.decode_ms_per_token,
                "itl_p50_ms": run["itl_ms"]["p50"],
                "itl_share": one.decode_ms_per_token / run["itl_ms"]["p50"],
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=GPU_NAMES, action="append", help="repeat for several (default: all)")
    options = parser.parse_args()
    print(f"{'':<8} {'picture':<10} {'vision':>9} {'prefill':>10} {'decode, one sequence':>21}")
    for name in options.gpu or GPU_NAMES:
        rates = rates_of(named_gpu(name).name)
        assert rates is not None  # those of all named GPUs are known
        for width, height in ((800, 600), (1920, 1080), (1240, 1754)):
            tokens = crop_grid(width, height, 16).num_image_tokens + QUESTION_TOKENS
            one = limit(rates, crops_of(width, height, 16), tokens)
            print(
                f"{name:<8} {f'{width}x{height}':<10} {one.vision_ms:>6.1f} ms {one.prefill_ms:>7.1f} ms "
                f"{one.decode_ms_per_token:>15.2f} ms"
            )


if __name__ == "__main__":
    main()
