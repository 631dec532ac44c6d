"""Whether a CPU's server should compute on all cores, or keep one back, and how its threads should wait.

Four servers answer the same requests in turns, round by round: one keeps a core back for vLLM's scheduler,
as vLLM does by default, the others keep none. Threads that wait for one another spin for about 3 ms, the
default of GNU's OpenMP, sleep at once, or sleep after 0.1 ms, as `phi-vision serve` has it on at most four
cores. The machine must have nothing else to do: threads that compute together suffer from other programs.

    VLLM_CPU_KVCACHE_SPACE=1 python -m benchmarks.studies.cpu_cores --output benchmarks/results/cpu_cores.json
"""

from __future__ import annotations

import argparse
import contextlib
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
from phi_vision.planning.launch_plan import SPINS

from benchmarks.harness import drawing, machine, workloads
from benchmarks.studies._server import client_of, running_server

_CORES, _SPINS = "VLLM_CPU_NUM_OF_RESERVED_CPU", "GOMP_SPINCOUNT"
SERVERS = {  # name -> environment
    "one kept back": {_CORES: "1", _SPINS: "300000"},
    "all": {_CORES: "0", _SPINS: "300000"},
    "all, 0 ms": {_CORES: "0", _SPINS: "0"},
    "all, 0.1 ms": {_CORES: "0", _SPINS: str(SPINS)},
}
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
    """A row for each load: requests a second of all servers in each round."""
    rows: dict[tuple[str, int], dict[str, list[float]]] = {
        load: {name: [] for name in SERVERS} for load in LOADS
    }
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(running_server(*FLAGS, env=env)) for name, env in SERVERS.items()
        }
        for number in range(-1, rounds):  # the first to warm up
            turns = list(SERVERS) if number % 2 == 0 else list(SERVERS)[::-1]
            for (kind, concurrency), count in LOADS.items():
                for name in turns:
                    rate = requests_per_s(servers[name], kind, concurrency, count, number)
                    if number >= 0:
                        rows[kind, concurrency][name].append(rate)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return [_row(kind, concurrency, rates) for (kind, concurrency), rates in rows.items()]


def _row(kind: str, concurrency: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios within a round, each server to the one before it."""
    ratios = {}
    for before, name in itertools.pairwise(rates):
        found = [rate / other for rate, other in zip(rates[name], rates[before], strict=True)]
        ratios[f"{name} / {before}"] = [round(of(found), 3) for of in (statistics.median, min, max)]
    return {
        "requests": kind,
        "concurrency": concurrency,
        "requests_per_s": {name: [round(rate, 3) for rate in found] for name, found in rates.items()},
        "ratios": ratios,  # median, lowest, highest
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--output", type=Path)
    args = options.parse_args()
    described = machine.describe_machine()
    rows = measure(args.rounds)
    for row in rows:
        rates = {name: round(statistics.median(found), 2) for name, found in row["requests_per_s"].items()}
        print(row["requests"], row["concurrency"], rates, row["ratios"])
    if args.output:
        result = {"benchmark": "cpu_cores", "machine": described, "git": machine.git_state(), "rows": rows}
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
