"""The sweep: which cells are run, in which order, and how two servers compare.

A cell is one workload at one load (a concurrency, or a rate). With several servers every cell is run
on one, then on the next, and the order changes from round to round: what drifts on the machine falls on
all. Each round has pictures of its own; within a round all servers get the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.load import Cell, LoadError, run_aiperf
from benchmarks.harness.servers import Server
from benchmarks.harness.workloads import WORKLOADS, fixed_length, requests, write_jsonl

# Figures that are compared: name -> (how to read it, whether more is better).
COMPARED: Mapping[str, tuple[Callable[[Mapping[str, Any]], float | None], bool]] = {
    "ttft_p50_ms": (lambda run: run["ttft_ms"] and run["ttft_ms"]["p50"], False),
    "itl_p50_ms": (lambda run: run["itl_ms"] and run["itl_ms"]["p50"], False),
    "e2e_p50_ms": (lambda run: run["e2e_ms"] and run["e2e_ms"]["p50"], False),
    "requests_per_s": (lambda run: run["requests_per_s"] or None, True),
}


@dataclass(frozen=True)
class Load:
    """How requests arrive: so many at a time, or so many a second."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"c{self.concurrency}" if self.rate is None else f"{self.rate:g}rps"


@dataclass(frozen=True)
class Step:
    """One cell in one round, on all servers."""

    workload: str
    load: Load
    round: int
    distinct: bool = True  # pictures; False: one picture throughout, to show what caches give

    @property
    def name(self) -> str:
        """Unique in a sweep; names the folder of AIPerf's file."""
        return f"{self.workload}-{self.load}{'' if self.distinct else '-repeated'}-round{self.round}"


@dataclass(frozen=True)
class SweepSettings:
    """What holds for all cells."""

    requests: int | None  # measured requests of a cell; None: by the load
    warmup: int | None  # requests before those; None: by the load
    least_requests: int
    fixed_length: bool
    answer_tokens: int | None  # of every answer; None: the workload's own number
    seed: int
    goodput: str | None
    timeout_s: float
    gpu: bool

    def count(self, load: Load) -> int:
        """Measured requests: at least four for each that is in flight."""
        return self.requests or max(self.least_requests, 4 * (load.concurrency or 8))


def plan(workloads: Sequence[str], loads: Sequence[Load], rounds: int, *, repeated: bool) -> list[Step]:
    """All steps; with `repeated` one more for each workload, at the first load, with one picture."""
    steps = []
    for number in range(1, rounds + 1):
        steps += [Step(workload, load, number) for workload in workloads for load in loads]
        if repeated:
            steps += [Step(workload, loads[0], number, distinct=False) for workload in workloads]
    return steps


def run_step(
    step: Step, servers: Sequence[Server], settings: SweepSettings, scratch: Path, folder: Path
) -> Iterator[dict[str, Any]]:
    """Run one step on each server; yields a record as soon as one is done.

    A cell whose load generator fails gives a record with `failure` and no figures.
    """
    workload = WORKLOADS[step.workload]
    count, warmup = settings.count(step.load), settings.warmup or max(2, step.load.concurrency or 2)
    tokens = settings.answer_tokens or workload.output_tokens
    fixed = fixed_length(tokens, servers[0].letter_tokens()) if settings.fixed_length else None
    seed = f"{settings.seed}-{step.load}-{step.round}"
    bodies = list(requests(step.workload, warmup + count, seed, "", fixed=fixed, distinct=step.distinct))
    for server in servers if step.round % 2 else list(reversed(servers)):
        model = server.model_for(workload.task)
        path = scratch / "requests.jsonl"
        write_jsonl(path, (body | {"model": model} for body in bodies))
        cell = Cell(
            url=server.url,
            model=model,
            requests=path,
            warmup=warmup,
            count=count,
            concurrency=step.load.concurrency,
            rate=step.load.rate,
            timeout_s=settings.timeout_s,
            goodput=settings.goodput,
            gpu=settings.gpu,
        )
        record: dict[str, Any] = {
            "server": server.label,
            "workload": step.workload,
            "concurrency": step.load.concurrency,
            "rate": step.load.rate,
            "round": step.round,
            "distinct_pictures": step.distinct,
            "files": f"aiperf/{step.name}-{server.label}",
        }
        try:
            record |= run_aiperf(cell, folder / record["files"])
        except LoadError as error:
            yield record | {"failure": str(error)}
            continue
        record["pictures_per_s"] = record["requests_per_s"] * workload.pictures
        yield record


def cell_key(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two runs must share to be compared."""
    return run["workload"], run["concurrency"], run["rate"], run["distinct_pictures"]


def ratios(runs: Sequence[Mapping[str, Any]], other: str) -> list[dict[str, Any]]:
    """How many times better ours is, cell by cell: the median of the rounds and their spread.

    Above 1 ours is better, for latencies and throughputs alike. `same_work` is false where the two
    counted different prompts or answers, or requests failed: such a ratio compares nothing.
    """
    by_round = {(run["server"], run["round"], cell_key(run)): run for run in runs if "failure" not in run}
    found = []
    for key in dict.fromkeys(cell_key(run) for run in runs):
        numbers = sorted({run["round"] for run in runs if cell_key(run) == key})
        pairs = [
            (by_round["ours", number, key], by_round[other, number, key])
            for number in numbers
            if ("ours", number, key) in by_round and (other, number, key) in by_round
        ]
        for name, (read, more_is_better) in COMPARED.items():
            values = []
            for ours, theirs in pairs:
                mine, others = read(ours), read(theirs)
                if mine and others:
                    values.append(mine / others if more_is_better else others / mine)
            if values:
                workload, concurrency, rate, distinct = key
                found.append(
                    {
                        "against": other,
                        "workload": workload,
                        "concurrency": concurrency,
                        "rate": rate,
                        "distinct_pictures": distinct,
                        "figure": name,
                        "median": statistics.median(values),
                        "low": min(values),
                        "high": max(values),
                        "rounds": len(values),
                        "same_work": all(_same_work(*pair) for pair in pairs),
                    }
                )
    return found


def _same_work(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    alike = all(
        abs(ours[count] - theirs[count]) <= 0.01 * theirs[count]
        for count in ("prompt_tokens", "output_tokens")
    )
    return alike and not ours["failed"] and not theirs["failed"]
