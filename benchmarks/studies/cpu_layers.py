"""What vLLM's fused CPU kernels for norms and rotary embedding are worth (`phi_vision.model.cpu_layers`).

One engine in this process computes prompts with the kernels and without them, in turns, no prompt twice; its
threads are set as vLLM sets those of a worker. Processor seconds barely suffer from other programs; wall
seconds do.

    python -m benchmarks.studies.cpu_layers --out benchmarks/results/cpu_layers.json
    python -m benchmarks.studies.cpu_layers --model DIR --what "published widths, 2 text layers" \
        --num-crops 1 --rounds 5 --out benchmarks/results/cpu_layers_full_width.json

DIR is made by `python -m benchmarks.peers.checkpoint DIR`.
"""

from __future__ import annotations

import statistics
import sys
import time
from random import Random
from typing import Any

from benchmarks.studies import _engine

_WAYS = ("PyTorch's operations", "vLLM's kernels")
_ANSWER_TOKENS = 33
_KINDS = {"a picture": 1, "a text": 1, "an answer": _ANSWER_TOKENS}  # what is timed -> tokens of the answer


def use(way: str, model: Any) -> None:
    """Have the model's layers compute this way from now on."""
    from phi_vision.model.cpu_layers import CPURMSNorm, use_rotary_kernel
    from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import (
        Phi3LongRoPEScaledRotaryEmbedding,
    )

    fused = way == _WAYS[1]
    for module in model.modules():
        if isinstance(module, CPURMSNorm):
            module._forward_method = module.forward_cpu if fused else module.forward_native
        if isinstance(module, Phi3LongRoPEScaledRotaryEmbedding):
            module.__dict__.pop("forward", None)
    if fused:
        use_rotary_kernel(model)


def prompt(kind: str, rng: Random) -> dict[str, Any]:
    """What the engine is asked."""
    if kind == "a picture":
        return _engine.picture_prompt(rng)
    return _engine.text_prompt(rng) if kind == "a text" else _engine.text_prompt(rng, words=1)


def measure(model: str, num_crops: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each kind: milliseconds of both ways in each round, and the ratios within a round."""
    llm = _engine.start(model, num_crops)
    network = _engine.network_of(llm)
    times: dict[str, dict[str, list[tuple[float, float]]]] = {
        kind: {way: [] for way in _WAYS} for kind in _KINDS
    }
    for turn in range(-1, rounds):  # the first to warm up
        for way in _WAYS if turn % 2 else reversed(_WAYS):
            use(way, network)
            for kind, tokens in _KINDS.items():
                asked = prompt(kind, Random(f"{turn} {way} {kind}"))
                wall_s, cpu_s = time.perf_counter(), time.process_time()
                _engine.answer(llm, asked, tokens)
                taken = 1e3 * (time.perf_counter() - wall_s), 1e3 * (time.process_time() - cpu_s)
                if turn >= 0:
                    times[kind][way].append(taken)
        print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return [_row(kind, found) for kind, found in times.items()]


def _row(kind: str, found: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"computed": kind}
    for clock, name in enumerate(("wall", "cpu")):
        before, after = ([taken[clock] for taken in found[way]] for way in _WAYS)
        ratios = [a / b for a, b in zip(before, after, strict=True)]
        row[f"{name}_ms"] = {
            way: round(statistics.median(ms), 1) for way, ms in zip(_WAYS, (before, after), strict=True)
        }
        row[f"{name}_ratio"] = [round(of(ratios), 3) for of in (statistics.median, min, max)]
    return row


if __name__ == "__main__":
    _engine.run("benchmarks.studies.cpu_layers", __doc__ or "", measure)
