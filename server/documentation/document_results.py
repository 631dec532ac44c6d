"""Blocks about reading documents, from committed results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from documentation.results import read_result
from documentation.tables import table


def documents(part: str) -> str:
    """How the demo reads pages: `rotation`, `tiles` or `confidence`."""
    summary = read_result("documents.json")["summary"]
    rows: list[Sequence[Any]]
    match part:
        case "rotation":
            rows = [
                (
                    lies,
                    row["pages"],
                    f"{row['end_upright']:.1%}",
                    f"{row['character_errors']:.1%}",
                    f"{row['tried_again']:.0%}",
                    f"{row['tokens']:,.0f}",
                    f"{row['tokens_of_one_reading']:,.0f}",
                    f"{summary['seconds'][lies]['seconds']:.1f}",
                )
                for lies, row in summary["rotation"].items()
            ]
            head = (
                "page lies | pages | end upright | character errors | tried again | tokens | of one reading "
                "| seconds"
            )
        case "tiles":
            rows = [
                (
                    {
                        "whole": "whole, 16 crops",
                        "tiles": "by default",
                        "slanting": "by default, 2 degrees askew",
                    }[way],
                    f"{row['tiles']:.1f}",
                    f"{row['character_errors']:.1%}",
                    f"{row['requests']:.1f}",
                    f"{row['prompt_tokens']:,.0f}",
                    f"{row['completion_tokens']:,.0f}",
                    f"{row['seconds']:.1f}",
                )
                for way, row in summary["tiles"].items()
            ]
            head = "read | tiles | character errors | requests | prompt tokens | answer tokens | seconds"
        case _:
            rows = [
                (
                    f"{row['from']:.2f} to {row['to']:.2f}",
                    row["count"],
                    f"{row['confidence']:.3f}",
                    f"{row['right']:.3f}",
                )
                for row in summary["words"]
            ]
            head = "confidence | words | mean | share right"
    return table(head, rows)


def layout_blank() -> str:
    """How often drawn pages are found blank, by the dirt on them."""
    found = read_result("layout.json")
    of = found["pages_a_row"]
    rows = [
        (dirt, *(f"{counts[f'{kind}_found_blank']} of {of}" for kind in ("blank", "one_line")))
        for dirt, counts in found["blank"].items()
    ]
    return table("dirt | blank pages found blank | pages with one line found blank", rows)


def layout_print() -> str:
    """Errors of the height of small letters, and of the axis of text, by the kind of page."""
    found = read_result("layout.json")
    rows = [
        (
            kind,
            f"{row['median_error']:+.1%}",
            f"{row['worst_error']:.1%}",
            row["axis_right"],
            row["found_blank"],
        )
        for kind, row in found["print"].items()
    ]
    head = "page | height of small letters, median error | worst | axis right, of {} | found blank"
    return table(head.format(found["pages_a_row"]), rows)


def layout_tiles() -> str:
    """Lines that tiles part and lose, by how much the page slants, and the time that all facts take."""
    keys = ("pages", "tiles", "lines", "parted", "lost")
    totals: dict[float, dict[str, int]] = {}
    found = read_result("layout.json")
    for row in found["tiles"]:
        total = totals.setdefault(row["skew_degrees"], dict.fromkeys(keys, 0))
        for key in keys:
            total[key] += row[key]
    rows = [(f"{skew:g}", *(f"{total[key]:,}" for key in keys)) for skew, total in totals.items()]
    time_s = found["median_ms_a_page"] / 1000
    return (
        f"{table('slant, degrees | pages | tiles | lines | parted by a cut | lost', rows)}\n\n"
        f"All facts of a page took {time_s:.2f} s (median), "
        f"load average at the end {found['machine']['load_average_1min']:.1f}."
    )


def loops_pages() -> str:
    """How many real pages the loop guard cuts."""
    found = read_result("loops.json")
    rows = [
        (kind, found["pages_a_row"], f"{row['chars']:,}", row["cut"], row["microseconds_per_token"])
        for kind, row in found["pages"].items()
    ]
    return table("page | pages | characters | cut | microseconds a token", rows)


def loops_cut() -> str:
    """How soon the loop guard cuts loops."""
    found = read_result("loops.json")
    keys = ("cut", "kept_once", "lines_of_repeats_median", "lines_of_repeats_most")
    rows = [(kind, found["pages_a_row"], *map(row.get, keys)) for kind, row in found["loops"].items()]
    return table("what repeats | loops | cut | kept once | lines of repeats, median | most", rows)
