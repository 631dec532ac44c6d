"""Whether a CPU's server should also compute on the core that vLLM keeps back for its scheduler.

Two servers that differ in `VLLM_CPU_NUM_OF_RESERVED_CPU` answer the same requests in turns, round by round.
The machine must have nothing else to do: threads that wait for one another suffer most from other programs.

    python -m benchmarks.studies.cpu_cores --output benchmarks/results/cpu_cores.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from phi_vision.client.process import ServerProcess

from benchmarks.harness import drawing, machine, workloads
from benchmarks.studies._server import client_of, running_server

RESERVED = ("1", "0")  # cores kept back: vLLM's default, and none
FLAGS = ("--model", "demo", "--max-model-len", "8192")
TEXT_TOKENS = 1500  # of a prompt, about
ANSWER_TOKENS = 48
LOADS = {("picture", 1): 4, ("picture", 4): 12, ("text", 1): 4, ("text", 4): 12}  # requests of a round


def bodies(kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """Requests without end, no two alike."""
    for number in itertools.count():
        rng = Random(f"{seed}-{number}")
        content: Any = f"{rng.random()} " + "word " * TEXT_TOKENS
        if kind == "picture":
            content = [workloads.image_part(drawing.invoice(rng), lossy=False)]
        message = {"role": "user", "content": content}
        yield {"messages": [message], **workloads.fixed_length(ANSWER_TOKENS)}


def requests_per_s(server: ServerProcess, kind: str, concurrency: int, count: int, seed: int) -> float:
    """Answer this many requests, `concurrency` at once."""
    client = client_of(server)
    asked = list(itertools.islice(bodies(kind, seed), count))

    def ask(body: dict[str, Any]) -> None:
        messages = body.pop("messages")
        client.chat.completions.create(model="phi-3.5-vision", messages=messages, extra_body=body)

    started_s = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(ask, asked))
    return count / (time.perf_counter() - started_s)


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each load: requests a second of both servers in each round."""
    rows: dict[tuple[str, int], dict[str, list[float]]] = {
        load: {reserved: [] for reserved in RESERVED} for load in LOADS
    }
    one, none = (
        running_server(*FLAGS, env={"VLLM_CPU_NUM_OF_RESERVED_CPU": reserved}) for reserved in RESERVED
    )
    with one as keeps_one, none as keeps_none:
        servers = dict(zip(RESERVED, (keeps_one, keeps_none), strict=True))
        for number in range(-1, rounds):  # the first to warm up
            turns = RESERVED if number % 2 == 0 else RESERVED[::-1]
            for (kind, concurrency), count in LOADS.items():
                for reserved in turns:
                    rate = requests_per_s(servers[reserved], kind, concurrency, count, number)
                    if number >= 0:
                        rows[kind, concurrency][reserved].append(rate)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return [_row(kind, concurrency, rates) for (kind, concurrency), rates in rows.items()]


def _row(kind: str, concurrency: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [none / one for one, none in zip(rates["1"], rates["0"], strict=True)]
    return {
        "requests": kind,
        "concurrency": concurrency,
        "requests_per_s": {reserved: [round(rate, 3) for rate in rates[reserved]] for reserved in RESERVED},
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--output", type=Path)
    args = options.parse_args()
    described = machine.describe_machine()
    rows = measure(args.rounds)
    print("requests  at once  one core kept back, req/s  none  ratio (lowest to highest)")
    for row in rows:
        one, none = (statistics.median(row["requests_per_s"][reserved]) for reserved in RESERVED)
        print(
            f"{row['requests']:<9} {row['concurrency']:>7} {one:>26.2f} {none:>5.2f} "
            f"{row['ratio_median']:>6.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        )
    if args.output:
        result = {"benchmark": "cpu_cores", "machine": described, "git": machine.git_state(), "rows": rows}
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
