"""The plots of the page, each as an SVG string."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GIB = 1 << 30
COLOURS = {
    "ours": "#2f6db5",
    "vllm": "#d9722e",
    "mistralrs": "#8a5fb0",
    "transformers": "#8a8f36",
    "other": "#3b8c57",
}
MEMORY_COLOURS = ["#2f6db5", "#7fb0de", "#e8b04a", "#b9772f", "#c9d0d8"]

plt.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small, sharp, searchable
        "svg.hashsalt": "phi-vision",  # the same figures give the same file
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e3e7ec",
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
    }
)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def latency_over_throughput(cells: Sequence[Mapping[str, Any]]) -> str:
    """One panel a workload: end-to-end latency over requests per second, a point for each load."""
    workloads = list(dict.fromkeys(cell["workload"] for cell in cells))
    figure, panels = plt.subplots(
        1, len(workloads), figsize=(3.6 * len(workloads), 3.4), squeeze=False, layout="constrained"
    )
    for axes, workload in zip(panels[0], workloads, strict=True):
        for server in dict.fromkeys(cell["server"] for cell in cells):
            line = [
                c for c in cells if (c["workload"], c["server"]) == (workload, server) and c["e2e_p50_ms"]
            ]
            x = [cell["requests_per_s"] for cell in line]
            colour = COLOURS[server]
            axes.plot(x, [c["e2e_p50_ms"] / 1000 for c in line], "o-", color=colour, label=f"{server} p50")
            axes.plot(
                x,
                [c["e2e_p99_ms"] / 1000 for c in line],
                "^:",
                color=colour,
                label=f"{server} p99",
                alpha=0.6,
            )
            for cell in line:
                at = (cell["requests_per_s"], cell["e2e_p50_ms"] / 1000)
                axes.annotate(
                    cell["load_number"], at, (5, -11), textcoords="offset points", color="#64707d", fontsize=8
                )
        axes.set(title=workload, xlabel="requests / s")
        axes.update_datalim([(0, 0)])  # the margin is a share of all that is shown, not of the points' spread
        axes.margins(0.12)
        axes.autoscale_view()
        axes.set(xlim=(0, None), ylim=(0, None))  # last: a limit that is set no longer heeds the margin
    panels[0][0].set_ylabel("end-to-end latency, s")
    panels[0][0].legend(frameon=False, fontsize=8)
    return _svg(figure)


def ttft_by_task(cells: Sequence[Mapping[str, Any]]) -> str:
    """Bars of TTFT p50 with marks at p90 and p99, one group a workload, at the lightest load."""
    first = [c for c in cells if c["load"] == cells[0]["load"] and c["ttft_p50_ms"]]
    workloads = list(dict.fromkeys(cell["workload"] for cell in first))
    servers = list(dict.fromkeys(cell["server"] for cell in first))
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    width = 0.7 / max(1, len(servers))
    for i, server in enumerate(servers):
        for cell in (cell for cell in first if cell["server"] == server):
            x = workloads.index(cell["workload"]) + (i - (len(servers) - 1) / 2) * width
            label = server if cell["workload"] == workloads[0] else None
            axes.bar(x, cell["ttft_p50_ms"], width * 0.92, color=COLOURS[server], label=label)
            axes.annotate(
                f"{cell['ttft_p50_ms']:.0f}", (x, cell["ttft_p50_ms"] / 2), ha="center", color="white"
            )
            for figure_name, mark in (("ttft_p90_ms", "_"), ("ttft_p99_ms", "x")):
                axes.plot(x, cell[figure_name], mark, color="#1d2733", markersize=9 if mark == "_" else 5)
    axes.plot([], [], "_", color="#1d2733", markersize=9, label="p90")
    axes.plot([], [], "x", color="#1d2733", markersize=5, label="p99")
    axes.set_xticks(range(len(workloads)), workloads)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(f"time to first token, ms ({cells[0]['load']})")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def memory(servers: Mapping[str, Any], card_bytes: int | None, machine_bytes: int) -> str:
    """One bar a server: its memory breakdown, the rest that it holds, and the whole card or machine."""
    measured = {label: s for label, s in servers.items() if s["memory"] and s["memory"]["steady_bytes"]}
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.6 * len(measured)), layout="constrained")
    parts = ("weights", "kv", "activation_peak", "cuda_graph")
    names = (
        "weights",
        "KV cache",
        "activations at peak",
        "CUDA graphs",
        "the rest: libraries, buffers, host code",
    )
    for row, server in enumerate(measured.values()):
        breakdown = server["account"]
        sizes = [breakdown.get(f"{part}_bytes") or 0 for part in parts]
        sizes.append(max(0, server["memory"]["steady_bytes"] - sum(sizes)))
        left = 0.0
        for size, name, colour in zip(sizes, names, MEMORY_COLOURS, strict=True):
            if size:
                axes.barh(
                    row, size / GIB, left=left, color=colour, height=0.55, label=name if row == 0 else None
                )
                left += size / GIB
        peak = server["memory"]["peak_bytes"] / GIB
        axes.plot(
            [peak, peak],
            [row - 0.38, row + 0.38],
            color="#b3261e",
            linewidth=2,
            label="peak" if row == 0 else None,
        )
    total = (card_bytes or machine_bytes) / GIB
    axes.axvline(
        total,
        color="#1d2733",
        linestyle="--",
        label=f"{'card' if card_bytes else 'machine'}, {total:.1f} GiB",
    )
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="GiB", xlim=(0, total * 1.03))
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=3,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.35 if len(measured) < 2 else -0.25),
    )
    return _svg(figure)


def stages(pictures: Sequence[Mapping[str, Any]]) -> str:
    """Host milliseconds and megabytes of a picture: our path and the float reference."""
    figure, (times, sizes) = plt.subplots(
        1, 2, figsize=(9.5, 0.8 + 0.75 * len(pictures)), sharey=True, layout="constrained"
    )
    for row, picture in enumerate(pictures):
        for offset, ours in ((-0.19, True), (0.19, False)):
            key = "ours" if ours else "reference"
            colour = COLOURS["ours" if ours else "vllm"]
            label = (
                ("canvas (ours)" if ours else "padded float crops (published processor)")
                if row == 0
                else None
            )
            decode_label = "decode" if ours and row == 0 else None
            times.barh(row + offset, picture["decode_ms"], 0.34, color="#c9d0d8", label=decode_label)
            times.barh(
                row + offset, picture[f"{key}_ms"], 0.34, left=picture["decode_ms"], color=colour, label=label
            )
            _end_label(
                times,
                picture["decode_ms"] + picture[f"{key}_ms"],
                row + offset,
                f"{picture[f'{key}_ms']:.1f}",
            )
            sizes.barh(row + offset, picture[f"{key}_bytes"] / 1e6, 0.34, color=colour)
            _end_label(
                sizes, picture[f"{key}_bytes"] / 1e6, row + offset, f"{picture[f'{key}_bytes'] / 1e6:.1f}"
            )
    times.set_yticks(range(len(pictures)), [picture["picture"] for picture in pictures])
    times.invert_yaxis()
    times.set_xlabel("ms on the host, one picture")
    sizes.set_xlabel("MB handed to the engine")
    for axes in (times, sizes):
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside upper left")
    return _svg(figure)


def _end_label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color="#64707d")


def ratio_spread(rows: Sequence[Mapping[str, Any]]) -> str:
    """A dot for each median and a line from the lowest to the highest round; right of 1 ours is better."""
    figure, axes = plt.subplots(figsize=(8.5, 0.9 + 0.24 * len(rows)), layout="constrained")
    for i, row in enumerate(rows):
        colour = COLOURS["ours"] if row["same_work"] else "#c9d0d8"
        axes.plot([row["low"], row["high"]], [i, i], color=colour, linewidth=2)
        axes.plot(row["median"], i, "o", color=colour)
        axes.annotate(
            f"{row['median']:.2f}",
            (row["high"], i),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="#1d2733", linewidth=1)
    axes.set_yticks(
        range(len(rows)),
        [f"{row.get('against', '')}  {row['workload']} {row['load']}  {row['figure']}" for row in rows],
        fontsize=8,
    )
    axes.invert_yaxis()
    axes.set_xlabel("times better than the other server (1: alike)")
    axes.margins(x=0.1)
    return _svg(figure)
