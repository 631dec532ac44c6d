"""The rows of a result: what the page, the last line of stdout and the README's table are made from.

`python -m benchmarks.harness.summary RESULT.json` prints the table in Markdown.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LATENCIES = ("ttft", "itl", "e2e")
_COLUMNS = {
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_p99_ms": "p99",
    "itl_p50_ms": "ITL p50, ms",
    "e2e_p50_ms": "whole request p50, ms",
    "e2e_p99_ms": "p99",
    "requests_per_s": "req/s",
    "pictures_per_s": "pictures/s",
    "output_tokens_per_s": "tokens/s",
}


def cells(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of each cell as one flat row: the median over rounds, failures summed."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in result["runs"]:
        key = (run["workload"], run["concurrency"], run["rate"], run["distinct_pictures"], run["server"])
        groups.setdefault(key, []).append(run)
    return [_row(key, [run for run in runs if "failure" not in run]) for key, runs in groups.items()]


def _row(key: tuple[Any, ...], runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    workload, concurrency, rate, distinct, server = key

    def median(read: Any) -> float | None:
        values = [value for value in map(read, runs) if value is not None]
        return statistics.median(values) if values else None

    row = {
        "workload": workload,
        "server": server,
        "load": load_name(concurrency, rate),
        "load_number": f"{concurrency if rate is None else rate:g}",
        "distinct_pictures": distinct,
        "rounds": len(runs),
        "succeeded": sum(run["succeeded"] for run in runs),
        "failed": sum(run["failed"] for run in runs),
    }
    for latency in _LATENCIES:
        for stat in ("p50", "p90", "p99"):
            row[f"{latency}_{stat}_ms"] = median(lambda run: (run[f"{latency}_ms"] or {}).get(stat))  # noqa: B023
    names = (
        "requests_per_s",
        "pictures_per_s",
        "output_tokens_per_s",
        "prompt_tokens",
        "output_tokens",
        "kv_usage_peak",
    )
    for name in names:
        row[name] = median(lambda run: run[name])  # noqa: B023
    return row


def load_name(concurrency: int | None, rate: float | None) -> str:
    """How a load is called on the page."""
    return f"{concurrency} at a time" if rate is None else f"{rate:g} a second"


def summary_line(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The last line of stdout: where the files are, and the figures of each cell of ours."""
    keep = (
        "workload",
        "load",
        "ttft_p50_ms",
        "itl_p50_ms",
        "e2e_p50_ms",
        "requests_per_s",
        "output_tokens_per_s",
        "failed",
    )
    return {
        "result": str(folder / "result.json"),
        "report": str(folder / "report.html"),
        "interrupted": result["interrupted"],
        "cells": [
            {name: row[name] for name in keep}
            for row in cells(result)
            if row["server"] == "ours" and row["distinct_pictures"]
        ],
    }


def markdown_table(result: Mapping[str, Any]) -> str:
    """The cells with distinct pictures, all servers, and a line that names the machine."""
    head = ["workload", "load", "server", *_COLUMNS.values(), "failed"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * (len(_COLUMNS) + 1)]
    for row in cells(result):
        if row["distinct_pictures"]:
            figures = [_rounded(row[name]) for name in _COLUMNS]
            names = [row["workload"], row["load"], row["server"]]
            lines.append("| " + " | ".join([*names, *figures, str(row["failed"])]) + " |")
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    models = ", ".join(sorted({str(server["model"]) for server in result["servers"].values()}))
    return "\n".join([*lines, "", f"{where}; served as {models}; {result['started'][:10]}."])


def _rounded(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}" if value < 5 else f"{value:.1f}"


if __name__ == "__main__":
    print(markdown_table(json.loads(Path(sys.argv[1]).read_text())))
