"""The rows of a result for people: in a terminal, and in the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.evaluation.metrics import METRICS
from benchmarks.evaluation.questions import ALL

_NONE = "\N{EN DASH}"


def text(result: Mapping[str, Any]) -> str:
    """All scores and comparisons of a result, as columns."""
    data = result["data"]
    some = f", a sample of {data['of']:,}" if data["of"] != data["questions"] else ""
    about = f"{data['questions']:,} questions{some}, {data['pictures']:,} pictures"
    lines = [f"{data['name']} ({data['layout']}): {about}"]
    for server in result["servers"]:
        lines += ["", server_line(server)]
        lines += columns(
            ["part", "metric", "score", "95 % interval", "questions"], map(score_cells, server["scores"])
        )
    if result["paired"]:
        first, second = (server["server"] for server in result["servers"])
        lines += ["", f"{first} against {second}, on the questions that both answered"]
        head = ["part", "metric", "ours", "other", "difference", "95 % interval", "p", "better", "worse"]
        lines += columns(head, map(paired_cells, result["paired"]))
    return "\n".join(lines)


def server_line(server: Mapping[str, Any]) -> str:
    """Who answered, and what did not go well."""
    counts = server["counts"]
    told = {
        "failed": "failed",
        "truncated": "cut off at max_tokens",
        "repetition": "ran in a loop",
        "empty": "empty",
    }
    notes = [f"{counts[name]:,} {words}" for name, words in told.items() if counts[name]]
    if server["prompts"] == "in words":
        notes.append("no task presets there: asked in words")
    if len(server["models"]) > 1:
        notes.append("SEVERAL MODELS ANSWERED")
    models = ", ".join(server["models"]) or "no model"
    return f"{server['server']} ({models}): {counts['answered']:,} answered" + "".join(
        f"; {note}" for note in notes
    )


def score_cells(score: Mapping[str, Any]) -> list[str]:
    """Part, metric, score, interval, questions."""
    interval = spread(score["low"], score["high"])
    return [part(score), metric(score), percent(score["value"]), interval, f"{score['questions']:,}"]


def paired_cells(row: Mapping[str, Any]) -> list[str]:
    """Part, metric, both scores, difference in points of a hundred, interval, p, better, worse."""
    return [
        part(row),
        metric(row),
        percent(row["ours"]),
        percent(row["other"]),
        signed(row["difference"]),
        spread(row["low"], row["high"], signed),
        p_value(row["p_value"]),
        f"{row['better']:,}",
        f"{row['worse']:,}",
    ]


def part(row: Mapping[str, Any]) -> str:
    """The part of the data set; one that has no parts is all there is."""
    return row["part"] or ALL


def metric(row: Mapping[str, Any]) -> str:
    """The metric's name, and which way is better."""
    found = METRICS[row["metric"]]
    return f"{found.name} (less is better)" if found.is_error else found.name


def percent(share: float | None) -> str:
    """Of a hundred."""
    return _NONE if share is None else f"{100 * share:.1f} %"


def signed(share: float | None) -> str:
    """A difference, in points of a hundred."""
    return _NONE if share is None else f"{100 * share:+.1f}"


def spread(low: float | None, high: float | None, show: Any = percent) -> str:
    """An interval."""
    return _NONE if low is None else f"{show(low)} to {show(high)}"


def p_value(value: float) -> str:
    """To the digits that the test has."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a terminal: the first two columns left, the others right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
