"""Ideal times by arithmetic: operations over the GPU's rate, bytes over its bandwidth.

`python -m benchmarks.harness.roofline [--gpu A10]` prints the table for the published model. No server comes
below these; a measured time beside them says what share of the limit it reaches.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi_vision.model.crops import CropPolicy
from phi_vision.model.geometry import crop_grid

from benchmarks.harness.workloads import WORKLOADS


@dataclass(frozen=True)
class Gpu:
    """What a card can do at best."""

    tflops: float  # dense bf16 matrix products, as well-tuned kernels reach them
    gb_per_s: float  # memory bandwidth of the data sheet


# A10: the data sheet's 125 TFLOP/s are not held at 150 W. H200: the cores of an H100, faster memory.
GPUS: Mapping[str, Gpu] = {"A10": Gpu(65, 600), "H100": Gpu(800, 3350), "H200": Gpu(800, 4800)}


@dataclass(frozen=True)
class Model:
    """The sizes that arithmetic needs; the defaults are the published model's."""

    layers: int = 32
    hidden: int = 3072
    mlp: int = 8192
    vocab: int = 32064
    kv_bytes_per_token: int = 2 * 32 * 3072 * 2  # bf16
    vision_layers: int = 23  # of 24: the feature is the last but one's
    vision_hidden: int = 1024
    vision_mlp: int = 4096
    patches: int = 577  # of a crop, with the class token
    bytes_per_weight: float = 2

    @property
    def text_weights(self) -> int:
        """Weights that every token passes: attention, gated MLP, output layer."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.mlp
        return self.layers * layer + self.vocab * self.hidden

    def vision_flops(self, crops: int) -> float:
        """The tower on `crops` crops: weights and attention."""
        weights = 4 * self.vision_hidden**2 + 2 * self.vision_hidden * self.vision_mlp
        attention = 2 * self.patches * self.vision_hidden
        return crops * self.patches * self.vision_layers * 2 * (weights + attention)

    def prefill_flops(self, tokens: int) -> float:
        """The text model on a prompt; the causal half of attention."""
        weights = self.text_weights - self.vocab * self.hidden  # logits of the last token alone
        attention = self.layers * tokens * self.hidden  # half of 2 * tokens * hidden
        return 2 * tokens * (weights + attention)

    def decode_bytes(self, sequences: int, context_tokens: float) -> float:
        """Bytes read for one token of each of `sequences`: weights once, each one's KV cache."""
        return (
            self.text_weights * self.bytes_per_weight + sequences * context_tokens * self.kv_bytes_per_token
        )


@dataclass(frozen=True)
class Limit:
    """Ideal milliseconds of one request's stages."""

    vision_ms: float
    prefill_ms: float
    decode_ms_per_token: float

    @property
    def ttft_ms(self) -> float:
        """Tower and prompt one after the other, the host's work free."""
        return self.vision_ms + self.prefill_ms


def limit(gpu: Gpu, crops: int, prompt_tokens: int, sequences: int = 1, model: Model | None = None) -> Limit:
    """The ideal stages of a request with `crops` crops in all (the global view counts as one)."""
    model = model or Model()
    flops_per_ms, bytes_per_ms = gpu.tflops * 1e9, gpu.gb_per_s * 1e6
    return Limit(
        vision_ms=model.vision_flops(crops) / flops_per_ms,
        prefill_ms=model.prefill_flops(prompt_tokens) / flops_per_ms,
        decode_ms_per_token=model.decode_bytes(sequences, prompt_tokens) / bytes_per_ms,
    )


def gpu_of(name: str | None) -> Gpu | None:
    """The entry for a device name as NVML tells it, such as `NVIDIA A10`."""
    words = (name or "").replace("-", " ").split()
    return next((gpu for short, gpu in GPUS.items() if short in words), None)


def crops_of(width: int, height: int, num_crops: int) -> int:
    """Crops that the tower sees of a picture, the global view included."""
    grid = crop_grid(width, height, num_crops)
    return grid.rows * grid.columns + 1


def compare(gpu: Gpu, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
        one = limit(gpu, crops, round(run["prompt_tokens"]), run["concurrency"])
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
    parser.add_argument("--gpu", choices=GPUS, action="append", help="repeat for several (default: all)")
    options = parser.parse_args()
    print(f"{'':<6} {'picture':<10} {'vision':>9} {'prefill':>10} {'decode, one sequence':>21}")
    for name in options.gpu or GPUS:
        for width, height in ((800, 600), (1920, 1080), (1240, 1754)):
            tokens = crop_grid(width, height, 16).num_image_tokens + 18  # a short question around it
            one = limit(GPUS[name], crops_of(width, height, 16), tokens)
            print(
                f"{name:<6} {f'{width}x{height}':<10} {one.vision_ms:>6.1f} ms {one.prefill_ms:>7.1f} ms "
                f"{one.decode_ms_per_token:>15.2f} ms"
            )


if __name__ == "__main__":
    main()
