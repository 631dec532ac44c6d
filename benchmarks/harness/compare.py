"""What got faster or slower between two results, beyond the noise.

`python -m benchmarks.harness.compare A B`: two result folders, A the older one. The noise of a cell is the
wider of two: the spread of its rounds, and two standard errors of the difference, from AIPerf's standard
deviations over requests. A difference below three percent is never told.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEAST = 0.03  # as a share; less is nobody's business
# Figure -> the latency whose scatter is its noise; throughput of a closed loop follows end-to-end latency.
FIGURES = {"ttft_ms": "ttft_ms", "itl_ms": "itl_ms", "e2e_ms": "e2e_ms", "requests_per_s": "e2e_ms"}
CellKey = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """One figure of one cell in both results."""

    cell: str
    figure: str
    before: float
    after: float
    change: float  # share of before; positive: the figure grew
    noise: float  # share of before
    verdict: str  # faster, slower or same


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """All figures that both results have, cell by cell."""
    old, new = _cells(before), _cells(after)
    return [
        change
        for key in old
        if key in new
        for figure in FIGURES
        if (change := _change(key, figure, old[key], new[key])) is not None
    ]


def failures(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Cells in which a larger share of the requests failed than before."""
    old, new = _cells(before), _cells(after)
    worse = []
    for key in old.keys() & new.keys():
        rates = [sum(run["failed"] for run in runs) / max(1, _sent(runs)) for runs in (old[key], new[key])]
        if rates[1] > rates[0]:
            worse.append(
                f"{_name(key)}: {100 * rates[0]:.1f} % -> {100 * rates[1]:.1f} % of the requests failed"
            )
    return sorted(worse)


def _sent(runs: Sequence[Mapping[str, Any]]) -> int:
    return sum(run["failed"] + run["succeeded"] for run in runs)


def _cells(result: Mapping[str, Any]) -> dict[CellKey, list[Mapping[str, Any]]]:
    found: dict[CellKey, list[Mapping[str, Any]]] = {}
    for run in result["runs"]:
        if "failure" not in run:
            key = (run["server"], run["workload"], run["concurrency"], run["rate"], run["distinct_pictures"])
            found.setdefault(key, []).append(run)
    return found


def _name(key: CellKey) -> str:
    server, workload, concurrency, rate, distinct = key
    load = f"{concurrency} at a time" if rate is None else f"{rate:g} a second"
    return f"{server} {workload} {load}{'' if distinct else ', one picture'}"


def _value(run: Mapping[str, Any], figure: str) -> float | None:
    stats = run[figure]
    return stats["avg"] if isinstance(stats, Mapping) else stats


def _relative_error(runs: Sequence[Mapping[str, Any]], latency: str) -> float:
    """Standard error of the mean latency over all requests of all rounds, as a share of it."""
    stats = [run[latency] for run in runs if run[latency]]
    if not stats:
        return 0.0
    count = sum(one["count"] for one in stats)
    mean = sum(one["avg"] * one["count"] for one in stats) / count
    variance = sum(one["std"] ** 2 * one["count"] for one in stats) / count
    return math.sqrt(variance / count) / mean if mean else 0.0


def _change(
    key: CellKey, figure: str, old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> Change | None:
    olds, news = ([v for run in runs if (v := _value(run, figure))] for runs in (old, new))
    if not olds or not news:
        return None
    before, after = statistics.median(olds), statistics.median(news)
    spread = max((max(values) - min(values)) / before for values in (olds, news))
    errors = [_relative_error(runs, FIGURES[figure]) for runs in (old, new)]
    noise = max(LEAST, spread, 2 * math.hypot(*errors))
    change = after / before - 1
    verdict = "same"
    if abs(change) > noise:
        verdict = "faster" if (change > 0) == (figure == "requests_per_s") else "slower"
    return Change(_name(key), figure, before, after, change, noise, verdict)


def main() -> int:
    """Print a table and, last, one JSON object. Exit code 1: something got slower, or fails more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, metavar="A", help="a results folder")
    parser.add_argument("after", type=Path, metavar="B", help="a later one")
    options = parser.parse_args()
    try:
        before, after = (
            json.loads((path / "result.json").read_text()) for path in (options.before, options.after)
        )
    except OSError as error:
        parser.error(str(error))
    changes = compare(before, after)
    if not changes:
        parser.error("the two results share no cell")
    for name in ("machine", "settings", "versions"):
        if before.get(name) != after.get(name):
            print(f"note: the two differ in {name}")
    for change in changes:
        mark = "" if change.verdict == "same" else f"  {change.verdict.upper()}"
        print(
            f"{change.cell:<40} {change.figure:<15} {change.before:>10.2f} -> {change.after:>10.2f} "
            f"{100 * change.change:>+7.1f} %  (noise {100 * change.noise:.1f} %){mark}"
        )
    worse = failures(before, after)
    print(*worse, sep="\n", end="\n" if worse else "")
    print(json.dumps({"changes": [asdict(change) for change in changes], "fails_more": worse}))
    return 1 if worse or any(change.verdict == "slower" for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
