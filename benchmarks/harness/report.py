"""The page: one self-contained HTML file made from `result.json`.

`python -m benchmarks.harness.report RESULT.json` writes it anew beside the result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.harness import figures
from benchmarks.harness.summary import cells, load_name

_HERE = Path(__file__).parent
_NONE = "\N{EN DASH}"


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
