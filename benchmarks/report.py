"""The page: one self-contained HTML file made from `result.json`.

`python benchmarks/report.py RESULT.json` writes it anew beside the result.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import figures
import jinja2

_HERE = Path(__file__).parent
_NONE = "\N{EN DASH}"
_LATENCIES = ("ttft", "itl", "e2e")


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


def render(result: Mapping[str, Any]) -> str:
    """The HTML of the page; parts that were not measured are left out."""
    rows = cells(result)
    spread = [row for row in rows if row["distinct_pictures"] and row["requests_per_s"]]
    machine, servers = result["machine"], result["servers"]
    plots = {}
    if spread:
        plots["latency"] = figures.latency_over_throughput(spread)
        plots["ttft"] = figures.ttft_by_task(spread)
    if any(server["memory"] for server in servers.values()):
        plots["memory"] = figures.memory(servers, machine["gpu_memory_bytes"], machine["memory_bytes"])
    pictures = (result.get("image_path") or {}).get("pictures")
    if pictures:
        plots["stages"] = figures.stages(pictures)
    ratios = [row | {"load": load_name(row["concurrency"], row["rate"])} for row in result["ratios"]]
    if ratios:
        plots["ratios"] = figures.ratio_spread([row for row in ratios if row["distinct_pictures"]])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.filters["gib"] = _gib
    environment.filters["share"] = lambda share: f"{100 * share:.1f} %" if share is not None else _NONE
    is_demo = any("demo" in str(server["model"]) for server in servers.values())
    return environment.get_template("report.html.j2").render(
        result=result, rows=rows, plots=plots, ratios=ratios, is_demo=is_demo
    )


def _gib(size: int | None) -> str:
    if size is None:
        return _NONE
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 28 else f"{size / (1 << 20):.0f} MiB"


def _number(value: float | None, digits: int = 0) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def main() -> None:
    """Render a result again."""
    path = Path(sys.argv[1])
    (path.parent / "report.html").write_text(render(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
