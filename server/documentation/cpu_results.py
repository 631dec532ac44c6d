"""The generated blocks that are made from measurements of the engine on a CPU."""

from __future__ import annotations

import statistics

from documentation.results import machine_of, read_result
from documentation.tables import table


def tower() -> str:
    """What a layer of the vision tower takes on a CPU, by how many crops go through it at once."""
    found = read_result("tower.json")
    rows = [
        (row["crops_at_once"], f"{row['wall_ms']:,.0f}", f"{row['cpu_ms']:,.0f}") for row in found["rows"]
    ]
    return f"{table('crops at once | ms | processor time, ms', rows)}\n\n{machine_of(found)}"


def cpu_cores() -> str:
    """Requests a second with a core kept back, with none, and with threads that spin less while they wait."""
    found = read_result("cpu_cores.json")
    rows = []
    for row in found["rows"]:
        rates = (f"{statistics.median(of):.2f}" for of in row["requests_per_s"].values())
        ratios = (f"{median:.2f} ({low:.2f} to {high:.2f})" for median, low, high in row["ratios"].values())
        rows.append((row["requests"], f"{row['concurrency']} at a time", *rates, *ratios))
    names = list(found["rows"][0]["requests_per_s"])
    head = " | ".join(["requests", "load", *names, *found["rows"][0]["ratios"]])
    return f"{table(head, rows)}\n\n{machine_of(found)}"


def cpu_layers() -> str:
    """What vLLM's kernels for norms and rotary embedding are worth on a CPU, by model."""
    found = [read_result(name) for name in ("cpu_layers.json", "cpu_layers_full_width.json")]
    rows = [
        (
            each["what"],
            row["computed"],
            *(f"{ms:,.0f}" for ms in row["wall_ms"].values()),
            *("{:.2f} ({:.2f} to {:.2f})".format(*row[f"{clock}_ratio"]) for clock in ("wall", "cpu")),
        )
        for each in found
        for row in each["rows"]
    ]
    head = "model | computed | PyTorch, ms | kernels, ms | ratio | ratio of processor time"
    return f"{table(head, rows)}\n\n{machine_of(found[0])}"


def cpu_profile() -> str:
    """Where the time of a request goes: each stage's milliseconds, and its parts."""
    found = [read_result(name) for name in ("cpu_profile.json", "cpu_profile_full_width.json")]
    kinds = ("matrix products", "attention", "other operations", "Python")
    rows = [
        (
            each["what"],
            row["stage"],
            f"{row['ms']:,.1f}",
            *(f"{row['shares'][kind]:.0%}" if kind in row["shares"] else "" for kind in kinds),
        )
        for each in found
        for row in each["rows"]
    ]
    return f"{table(' | '.join(('model', 'stage', 'ms', *kinds)), rows)}\n\n{machine_of(found[0])}"
