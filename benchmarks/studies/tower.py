"""How many crops the vision tower should take at once on a CPU.

    python -m benchmarks.studies.tower [--out FILE]

The tower of CLIP-L's width with random weights in bfloat16 and few layers, on the 17 crops of a photo. The
sizes take turns. Processor seconds, which count what the system does for the process, barely suffer from
other programs; wall seconds do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch
from phi_vision.model import phi3v
from phi_vision.model.canvas import resize_and_pad
from phi_vision.model.config import Phi3VConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    init_distributed_environment,
    initialize_model_parallel,
)

from benchmarks.harness import drawing
from benchmarks.harness.machine import describe_machine

AT_ONCE = (1, 2, 4, 8, 17)


@contextmanager
def tower(layers: int) -> Iterator[phi3v.HDImageEmbedding]:
    """The image embedding as the engine builds it, on this process alone."""
    config = Phi3VConfig(
        img_processor={
            "image_dim_out": 1024,
            "name": "clip_vision_model",
            "num_img_tokens": 144,
            "vision_config": {"num_hidden_layers": layers + 1},  # the last is never run
        }
    )
    default = torch.get_default_dtype()
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
        initialize_model_parallel(1)
        torch.set_default_dtype(torch.bfloat16)
        embedding = phi3v.HDImageEmbedding(config, None, "tower")
        torch.set_default_dtype(default)
        for weight in embedding.parameters():
            torch.nn.init.normal_(weight, std=0.02)
        for module in embedding.modules():
            if hasattr(module, "quant_method"):  # chooses the kernels, as vLLM does after loading
                module.quant_method.process_weights_after_loading(module)
        with torch.inference_mode():
            yield embedding
    cleanup_dist_env_and_memory()


def measure(layers: int, rounds: int) -> list[dict[str, Any]]:
    """Median milliseconds of a layer for one picture, by how many crops go through at once."""
    canvas = torch.from_numpy(resize_and_pad(drawing.photo(Random(35)), 16))
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in AT_ONCE}
    with tower(layers) as embedding:
        for turn in range(rounds + 1):
            for size in AT_ONCE if turn % 2 else reversed(AT_ONCE):
                phi3v.CROPS_AT_ONCE_ON_CPU = size
                start, start_cpu = time.perf_counter(), time.process_time()
                embedding([canvas])
                wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
                if turn:  # the first warms up
                    times[size].append((1000 * wall_s / layers, 1000 * cpu_s / layers))
    return [
        {
            "crops_at_once": size,
            "wall_ms": statistics.median(wall for wall, _ in found),
            "cpu_ms": statistics.median(cpu for _, cpu in found),
        }
        for size, found in times.items()
    ]


def main() -> None:
    """Measure; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3, help="of the tower (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: torch's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result there")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "layers": options.layers,
        "rounds": options.rounds,
        "crops": 17,
        "rows": measure(options.layers, options.rounds),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
