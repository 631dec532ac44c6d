"""The generated blocks that are made from committed results, never written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from documentation.tables import table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def benchmark(folder: str) -> str:
    """The cells of a committed run of `make bench`."""
    from benchmarks.harness.summary import markdown_table

    return str(markdown_table(read_result(f"{folder}/result.json")))


def ratios(folder: str) -> str:
    """Ours against the other servers of a committed run: median of the rounds, their lowest and highest."""
    figures = ("requests_per_s", "ttft_p50_ms", "e2e_p50_ms")
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for ratio in read_result(f"{folder}/result.json")["ratios"]:
        spread = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        work = (
            ratio["workload"]
            if ratio["distinct_pictures"]
            else f"{ratio['workload']}, one picture again and again"
        )
        cell = (work, f"{ratio['concurrency']} at a time", ratio.get("against", ""))
        cells.setdefault(cell, {})[ratio["figure"]] = spread
    rows = [(*cell, *(found[figure] for figure in figures)) for cell, found in cells.items()]
    return table("workload | load | against | requests a second | time to first token | whole request", rows)


def memory(folder: str) -> str:
    """What the servers of a committed run hold, with the processes below them."""
    rows = []
    for label, server in read_result(f"{folder}/result.json")["servers"].items():
        sizes = (f"{server['memory'][key] / (1 << 30):.1f}" for key in ("steady_bytes", "peak_bytes"))
        rows.append((label, *sizes, f"{server['start_s']:.0f}"))
    return table("server | idle, GiB | at the peak, GiB | start, s", rows)


def image_path(folder: str) -> str:
    """The picture path of a committed run beside the published processor's float path."""
    rows = []
    for stage in read_result(f"{folder}/result.json")["image_path"]["pictures"]:
        times = (f"{stage[key]:.1f}" for key in ("ours_ms", "reference_ms"))
        sizes = (f"{stage[key] / 1e6:.1f}" for key in ("ours_bytes", "reference_bytes"))
        rows.append((stage["picture"], *times, *sizes))
    return table("picture | ours, ms | float, ms | ours, MB | float, MB", rows)


def kv_quantization() -> str:
    """Errors of the quantized KV caches."""
    errors = read_result("kv_quantization.json")["errors"]
    columns = [(keys, f"{of}_percent") for keys in errors for of in ("keys", "attention")]
    rows = [
        (dtype, *(f"{errors[keys][dtype][of]:.2f} %" for keys, of in columns)) for dtype in errors["gaussian"]
    ]
    return table("KV cache | keys, values | attention | keys with outliers | attention, outlier keys", rows)


def front_end() -> str:
    """Pictures a second through the front end, one API process: ours and stock vLLM."""
    found = read_result("front_end.json")
    rates = {
        (row["picture"], row["workers"], row["front_end"]): row
        for row in found["speed"]
        if row.get("api_processes", 1) == 1
    }
    rows = []
    for picture, workers in dict.fromkeys(key[:2] for key in rates):
        ours, stock = (rates[picture, workers, name] for name in ("ours", "stock"))
        rows.append(
            (
                workers,
                picture,
                f"{ours['worker_cpu_ms']:.1f}",
                f"{ours['server_cpu_ms']:.1f}",
                f"{ours['pictures_per_s']:.1f}",
                f"{ours['share_of_ideal']:.0%}",
                f"{stock['pictures_per_s']:.1f}",
            )
        )
    head = "workers | picture | draw, ms | receive, ms | ours, a second | of the ideal | stock vLLM"
    return f"{table(head, rows)}\n\n{machine_of(found)}"


def front_end_processes() -> str:
    """Pictures a second with several processes, beside what the plan reckons."""
    rows = []
    for row in read_result("front_end.json")["speed"]:
        if "predicted_per_s" in row:
            low, high = (pick(row["shares_of_predicted"]) for pick in (min, max))
            rates = (
                f"{row['pictures_per_s']:.1f}",
                f"{row['predicted_per_s']:.1f}",
                f"{low:.0%} to {high:.0%}",
            )
            rows.append((row["api_processes"], row["workers"], row["picture"], *rates))
    head = "API processes | workers of each | picture | measured, a second | reckoned | share, by round"
    return table(head, rows) if rows else "No committed result yet."


def pdf_pages() -> str:
    """Pages of PDF files a second through the front end, one page a request."""
    if not (RESULTS / "pdf_pages.json").exists():
        return "No committed result yet."
    found = read_result("pdf_pages.json")
    rows = [
        (
            row["workers"],
            row["document"],
            f"{row['file_bytes'] / 1e6:.2f}",
            f"{row['page_cpu_ms']:.1f}",
            f"{row['server_cpu_ms']:.1f}",
            f"{row['pages_per_s']:.1f}",
            f"{row['share_of_ideal']:.0%}",
        )
        for row in found["speed"]
    ]
    head = "workers | document | MB | worker, ms a page | server, ms a page | pages a second | of the ideal"
    return f"{table(head, rows)}\n\n{machine_of(found)}"


def ray_speed() -> str:
    """Pages a second through the plain client of `batch` and through a Ray cluster."""
    found = read_result("ray.json")
    rows = [
        (
            row["servers"],
            {"plain": "plain", "ray": "Ray"}[row["client"]],
            f"{row['pages_per_s']:.1f}",
            f"{row['share_of_ideal']:.0%}",
            f"{row['start_s']:.1f}",
            f"{row['command_cpu_ms']:.1f}",
        )
        for row in found["speed"]
    ]
    head = "servers | client | pages a second | of the ideal | start, s | command's processor time, ms a page"
    return f"{table(head, rows)}\n\n{machine_of(found)}"


def ray_estimate(gpus: str, millions: str, pages_per_s: str) -> str:
    """What a large run would take, from what a page takes.

    Args:
        gpus: servers.
        millions: of pages.
        pages_per_s: of each server; assumed.
    """
    found = read_result("ray.json")
    page, queue = found["page"], found["queue"]
    command_ms = max(row["command_cpu_ms"] for row in found["speed"] if row["client"] == "ray")
    rate, count = int(gpus) * float(pages_per_s), 1e6 * float(millions)
    processors = {
        "count the pages of documents": page["count_cpu_ms"],
        "read a document, cut a page out": page["read_cpu_ms"],
        "ask for a page": page["ask_cpu_ms"],
        "servers: draw its canvas": page["canvas_cpu_ms"],
        "command: Ray's pipeline": command_ms,
        "command: list it": queue["list_ms"],
        "command: write what came of it": queue["settle_ms"],
        "command, at the end: results.jsonl": queue["jsonl_ms"],
        "command, at the end: results.parquet": queue["parquet_ms"],
    }
    sizes = {
        "from storage: a page's whole document": page["file_bytes"] * page["document_pages"],
        "to a server: a page as a request": page["request_bytes"],
        "to the queue": queue["queue_bytes"],
        "results.jsonl": queue["jsonl_bytes"],
        "results.parquet": queue["parquet_bytes"],
    }
    rows = [
        (name, f"{ms:,.2f} ms", f"{ms * rate / 1000:,.1f} processors", f"{ms * count / 3.6e6:,.0f} hours")
        for name, ms in processors.items()
    ] + [
        (name, f"{size / 1e3:,.1f} kB", f"{size * rate / 1e9:,.2f} GB/s", f"{size * count / 1e12:,.1f} TB")
        for name, size in sizes.items()
    ]
    head = f"what | a page | at {rate:,.0f} pages a second | {count / 1e6:,.0f} million pages"
    return f"{table(head, rows)}\n\n{machine_of(found)}"


def machine_of(found: Any) -> str:
    """The machine of a result, in a line."""
    machine = found["machine"]
    load = f"load average at the start {machine['load_average_1min']:.1f}"
    return f"{machine['cpu']}, {machine['cores']} cores, {load}."


def batch_soak() -> str:
    """A run of `batch` that is killed again and again, beside one that is not; the memory of the client."""
    found = read_result("batch_soak.json")
    rows = [
        (
            name,
            f"{row['lines']:,}",
            len(row["kills"]),
            sum(row["failed"].values()),
            row["wrong"],
            row["under_way_at_kills"],
            row["asked_again"],
            row["asked_again_for_nothing"],
            f"`{row['sha256'][:12]}`",
            f"{row['seconds']:,.0f}",
        )
        for name in ("undisturbed", "disturbed")
        for row in [found["kills"][name]]
    ]
    head = (
        "run | results | kills | failed | wrong | under way at a kill | asked again | of these not under way "
        "| SHA-256 of the results | seconds"
    )
    memory = found["memory"]
    (early, early_mb), *_, (late, late_mb) = ((int(n), mb) for n, mb in memory["resident_mb"].items())
    return (
        f"{table(head, rows)}\n\nResident memory of the client of a run of {memory['items']:,} items: "
        f"{early_mb:.0f} MB after {early:,}, {late_mb:.0f} MB after {late:,}, "
        f"{max(memory['resident_mb'].values()):.0f} MB at most; {memory['seconds']:,.0f} seconds."
    )


def batch_latency() -> str:
    """What a client waits alone, beside other clients and beside a batch."""
    rows = []
    for row in read_result("batch_latency.json")["rows"]:
        times = [f"{row[key][p]:,.0f}" for key in ("first_token_ms", "whole_ms") for p in ("p50", "p95")]
        rows.append((row["beside"], row["requests"], *times, f"{row['others_per_s']:.1f}"))
    head = "beside | requests | TTFT p50, ms | p95 | whole request p50, ms | p95 | others, requests a second"
    return table(head, rows)


def demo_exam() -> str:
    """How often the demo model is right."""
    rows = []
    for name, part in read_result("demo_exam.json")["parts"].items():
        is_text = name.startswith(("ocr", "small print", "order-read"))
        errors = f"{100 * part['cer']:.1f} %" if is_text else ""
        rows.append((name, part["asked"], f"{100 * part['exact']:.1f} %", errors))
    return table("part | asked | exact | character errors", rows)


def eval_demo() -> str:
    """What each precision costs the demo, beside the first."""
    if not (RESULTS / "eval_demo.json").exists():
        return "No committed result yet."
    found = read_result("eval_demo.json")
    rows = []
    for profile in found["profiles"]:
        scores = {row["metric"]: row for row in profile["scores"] if row["part"] == "all"}
        paired = {row["metric"]: row for row in profile["paired"] if row["part"] == "all"}
        cells = [
            profile["profile"],
            profile["counts"]["answered"],
            _share(scores["exact"]),
            _share(scores["cer"]),
        ]
        if paired:
            exact = paired["exact"]
            cells += [_difference(exact), _difference(paired["cer"]), f"{exact['better']} / {exact['worse']}"]
            cells += [f"{exact['p_value']:.2f}", len(profile["changed"])]
        rows.append(cells + [""] * (9 - len(cells)))
    head = (
        "profile | answers | exact | character errors | exact, difference | character errors, difference "
        "| better / worse | p | other answers"
    )
    return f"{table(head, rows)}\n\n{machine_of(found)}"


def _share(row: Any) -> str:
    interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
    return f"{100 * row['value']:.1f} %{interval}"


def _difference(row: Any) -> str:
    interval = "" if row["low"] is None else f" ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
    return f"{100 * row['difference']:+.2f}{interval}"


def read_result(name: str) -> Any:
    """A committed result."""
    return json.loads((RESULTS / name).read_text())
