"""Where the time of a request goes on a CPU: by stage, and by kind of operation.

One engine in this process answers requests about a picture. One of them is profiled by torch, which gives the
shares of the operations; the others are timed. The server around the engine is not here, nor is decoding the
file: `studies/front_end.py` measures them.

    python -m benchmarks.studies.cpu_profile --out benchmarks/results/cpu_profile.json
    python -m benchmarks.studies.cpu_profile --model DIR --what "published widths, 2 text layers" \\
        --num-crops 1 --rounds 5 --out benchmarks/results/cpu_profile_full_width.json

DIR is made by `python -m benchmarks.peers.checkpoint DIR`.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

from phi_vision.model.canvas import resize_and_pad

from benchmarks.studies import _engine

ANSWER_TOKENS = 33
STAGES = ("picture path", "tower", "prompt", "answer", "logits", "rest of the engine")
PICTURE, TOWER, PROMPT, ANSWER, LOGITS, REST = STAGES
_KINDS = {  # of operations, by parts of their names
    "matrix products": ("onednn_mm", "addmm", "aten::mm", "convolution"),
    "attention": ("scaled_dot_product", "cpu_attention_with"),
}
OTHER, PYTHON = "other operations", "Python"


class StageTimes:
    """Milliseconds of each stage, taken around the model's methods; the profiler sees the stages too."""

    def __init__(self, network: Any) -> None:
        self.ms: dict[str, float] = defaultdict(float)
        network.embed_multimodal = self._timed(network.embed_multimodal, lambda **_: TOWER)
        network.forward = self._timed(network.forward, _of_step)
        network.compute_logits = self._timed(network.compute_logits, lambda *_: LOGITS)

    def _timed(self, call: Callable[..., Any], stage_of: Callable[..., str]) -> Callable[..., Any]:
        from torch.profiler import record_function

        def timed(*args: Any, **kwargs: Any) -> Any:
            stage = stage_of(*args, **kwargs)
            started_s = time.perf_counter()
            with record_function(stage):
                result = call(*args, **kwargs)
            self.ms[stage] += 1e3 * (time.perf_counter() - started_s)
            return result

        return timed


def _of_step(**inputs: Any) -> str:
    """The prompt comes as many tokens at once, the answer token by token."""
    return PROMPT if inputs["positions"].shape[-1] > 1 else ANSWER


def measure(model: str, num_crops: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each stage: median milliseconds, and the shares of the kinds of operations in them."""
    from torch.profiler import ProfilerActivity, profile

    llm = _engine.start(model, num_crops)
    times = StageTimes(_engine.network_of(llm))
    found: list[dict[str, float]] = []
    for turn in range(-2, rounds):
        ask = partial(_engine.answer, llm, _engine.picture_prompt(Random(f"{turn}")), ANSWER_TOKENS)
        if turn == -1:  # after one to warm up
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                ask()
            shares = shares_of(profiler.events())
            continue
        times.ms.clear()
        started_s = time.perf_counter()
        ask()
        whole_ms = 1e3 * (time.perf_counter() - started_s)
        if turn >= 0:
            found.append(
                {**times.ms, REST: whole_ms - sum(times.ms.values()), PICTURE: picture_ms(num_crops, turn)}
            )
    # The picture path of the server is in a process of its own; in here it is a part of the rest.
    for each in found:
        each[REST] -= each[PICTURE]
    return [
        {
            "stage": stage,
            "ms": round(statistics.median(each[stage] for each in found), 2),
            "low_ms": round(min(each[stage] for each in found), 2),
            "high_ms": round(max(each[stage] for each in found), 2),
            "shares": shares.get(stage, {}),
        }
        for stage in STAGES
    ]


def picture_ms(num_crops: int, seed: int) -> float:
    """What it takes to draw the canvas of a picture that is decoded already, as the engine got it."""
    picture = _engine.picture_prompt(Random(f"{seed}"))["multi_modal_data"]["image"]
    started_s = time.perf_counter()
    resize_and_pad(picture, num_crops)
    return 1e3 * (time.perf_counter() - started_s)


def shares_of(events: Iterable[Any]) -> dict[str, dict[str, float]]:
    """Of each stage, the share of its profiled time in each kind of operation, and outside of any."""
    inside: dict[str, Counter[str]] = defaultdict(Counter)
    for event in events:
        stage = _stage_of(event)
        if stage is None:
            continue
        kind = PYTHON
        if event.name != stage:
            kind = next((k for k, names in _KINDS.items() if any(n in event.name for n in names)), OTHER)
        inside[stage][kind] += event.self_cpu_time_total
    return {
        stage: {kind: round(us / found.total(), 3) for kind, us in found.most_common()}
        for stage, found in inside.items()
    }


def _stage_of(event: Any) -> str | None:
    while event is not None and event.name not in STAGES:
        event = event.cpu_parent
    return event and str(event.name)


if __name__ == "__main__":
    _engine.run("benchmarks.studies.cpu_profile", __doc__ or "", measure)
