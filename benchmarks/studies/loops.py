"""What does the loop guard cut: loops only, and how soon?

    python -m benchmarks.studies.loops --out FILE [--pages N]

Real pages are the texts of drawn ones (`tests/support/documents.py`): prose, columns, tables of contents with
leaders, tables, also as Markdown. A loop begins after some lines of such a page and repeats a word, five
words, a line or four lines of it for ever. The guard is fed in pieces of `CHARS_A_TOKEN`, as from an engine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from phi_vision.documents.loops import LINE_CHARS, LoopDetector, find_loop

from benchmarks.harness.machine import describe_machine
from tests.support.documents import Page, draw

FIRST_SEED = 2_000_000
PAGES = ("prose", "columns", "contents", "table")
CHARS_A_TOKEN = 4
LOOP_CHARS = 6000


def main() -> None:
    """Measure, print the figures, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=50, help="of each kind (default: %(default)s)")
    args = parser.parse_args()
    found = {
        "machine": describe_machine(),
        "pages_a_row": args.pages,
        "pages": dict(_pages(args.pages)),
        "loops": dict(_loops(args.pages)),
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    json.dump(found, sys.stdout, indent=1)


def _pages(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in (*PAGES, "table, Markdown"):
        cut, microseconds, chars = 0, [], 0
        for number in range(count):
            text = _text(_page(kind.partition(",")[0], number), markdown="Markdown" in kind)
            stopped_at, seconds = _feed(text)
            cut += stopped_at is not None
            chars += len(text)
            microseconds.append(1e6 * seconds / (len(text) / CHARS_A_TOKEN))
        yield (
            kind,
            {"cut": cut, "chars": chars, "microseconds_per_token": round(median(microseconds), 1)},
        )


def _loops(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in ("a word", "five words", "a line", "four lines"):
        cut, kept_right, repeats_lines = 0, 0, []
        for number in range(count):
            rng = Random(f"loop-{FIRST_SEED + number}")
            lines = [line.text for line in _page(rng.choice(("prose", "columns")), number).lines]
            at = rng.randint(2, len(lines) - 5)
            pattern = _pattern(kind, lines[at : at + 4])
            before = "\n".join(lines[:at]) + "\n"
            stopped_at, _ = _feed(before + pattern * (LOOP_CHARS // len(pattern)))
            if stopped_at is None:
                continue
            cut += 1
            said = (before + pattern * (LOOP_CHARS // len(pattern)))[:stopped_at]
            repeats_lines.append((stopped_at - len(before) - len(pattern)) / LINE_CHARS)
            kept_right += (said[: find_loop(said)]).rstrip() == (before + pattern).rstrip()
        yield (
            kind,
            {
                "cut": cut,
                "kept_once": kept_right,
                "lines_of_repeats_median": round(median(repeats_lines), 1),
                "lines_of_repeats_most": round(max(repeats_lines), 1),
            },
        )


def _page(kind: str, number: int) -> Page:
    return draw(kind, Random(FIRST_SEED + number))


def _text(page: Page, *, markdown: bool) -> str:
    if not markdown:
        return page.text
    rows = [f"| {' | '.join(line.text.split())} |" for line in page.lines]
    return "\n".join([rows[0], "|---" * rows[0].count("|") + "|", *rows[1:]])


def _pattern(kind: str, lines: list[str]) -> str:
    words = " ".join(lines).split()
    return {
        "a word": f"{words[0]} ",
        "five words": f"{' '.join(words[:5])} ",
        "a line": f"{lines[0]}\n",
        "four lines": "\n".join(lines) + "\n",
    }[kind]


def _feed(text: str) -> tuple[int | None, float]:
    """After how many characters the guard stopped, and the seconds that it took for all of them."""
    detector = LoopDetector()
    started = time.perf_counter()
    for at in range(0, len(text), CHARS_A_TOKEN):
        if detector.feed(text[at : at + CHARS_A_TOKEN]):
            return detector.num_chars, time.perf_counter() - started
    return None, time.perf_counter() - started


if __name__ == "__main__":
    main()
