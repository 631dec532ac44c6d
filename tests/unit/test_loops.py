"""Loops are cut, and what only looks like one is not."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phi_vision.documents.loops import (
    CHECK_CHARS,
    COUNTING_CHECK_CHARS,
    LINE_CHARS,
    MIN_REPEATS,
    WINDOW_CHARS,
    LoopDetector,
    find_loop,
)

WORDS = [
    "".join(random.Random(seed).choices("abcdefghijklmnoprstuvw", k=2 + seed % 8)).capitalize()
    for seed in range(300)
]


def prose(chars: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=chars))[:chars]


def lines(count: int, line: str) -> str:
    """A page of lines; `{i}` in a line is its number, from 1."""
    return "\n".join(line.replace("{i}", str(i)) for i in range(1, count + 1))


REAL_PAGES = {
    "table of contents": "Contents\n" + lines(60, "Chapter {i} ................................. {i}"),
    "table of contents, spaced": lines(40, "Part {i} . . . . . . . . . . . . . . . . . . . {i}4"),
    "table of contents, pages": "\n".join(f"{w} {'.' * (50 - len(w))} {7 * i}" for i, w in enumerate(WORDS)),
    "wide leader": prose(100) + " " + "." * 1000 + " 7",
    "ruled table": "| Name | Date |\n|------|------|\n" + lines(40, "|      |      |"),
    "table with wide rules": lines(20, "+--------+--------+--------+\n| a      | {i}      |        |"),
    "numbered blank table": lines(80, "| {i} | ______ | ______ |"),
    "form": lines(25, "Name: ______________  Date: ____________"),
    "numbered form": lines(50, "{i}. ________________________________"),
    "blank lines to write on": lines(20, "_" * 70),
    "zeros": lines(30, "0.00"),
    "a page of zeros": lines(75, "0.00"),
    "a page of N/A": lines(75, "N/A"),
    "rows of zeros": lines(50, "0.00 0.00 0.00 0.00"),
    "table of zeros": lines(50, "| Rent | 0.00 | 0.00 |"),
    "five rows of 40 characters": lines(5, "Storage unit, monthly rate      USD 120"),
    "figures": "\n".join(f"{i * 37 % 1000:03}.{i * 7 % 100:02} EUR" for i in range(300)),
    "figures that grow": "\n".join(f"{i}.00  {i + 7}.00" for i in range(0, 600, 3)),
    "line numbers": "\n".join(str(i) for i in range(1, 80)),
    "questions": lines(60, "Question {i}"),
    "days": lines(31, "{i}.01.2026 closed"),
    "timetable": "\n".join(f"{h:02}:{m:02} Central Station" for h in range(5, 24) for m in (0, 15, 30, 45)),
    "addresses": "\n\n".join(f"{w} {v}\n{i} Main Street\nSpringfield, IL 62701" for i, (w, v) in
                             enumerate(zip(WORDS, WORDS[7:], strict=False))),
    "poem with a refrain": "\n".join(f"{prose(150, i)}\nAnd the raven said: nevermore.\n" for i in range(12)),
    "chorus": "La la la la la, la la la la la\n" * 5,
    "two copies of a letter": (prose(1500) + "\n") * 2,
    "prose": prose(12_000),
}  # fmt: skip


@pytest.mark.parametrize("page", REAL_PAGES.values(), ids=REAL_PAGES)
def test_a_real_page_passes_whole(page: str) -> None:
    detector = LoopDetector()
    assert not detector.feed(page + "\n" + "\n".join(f"End {w}" for w in WORDS[:30]))
    ends = range(0, len(page) + 1, 53)
    assert [find_loop(page[:end]) for end in ends] == [None] * len(ends)


# The pattern, and how many lines' worth of repeats a real page may have.
LOOPS = {
    "character": ("a", 2),
    "digit": ("0", 2),
    "word": ("invoice ", 2),
    "phrase": ("of the State of the ", 2),
    "line": ("The quick brown fox jumps.\n", 2),
    "ellipsis": ("and so on... ", 2),
    "block of lines": ("Dear Sir,\nwe are sorry to hear\nthat the train was late.\n\n", 2),
    "long block": (prose(1000) + "\n", 2),
    "short lines": ("N/A\n", 5),
    "dots": (".", 20),
    "rule of a table": ("|---|---|\n", 20),
    "blank cells": ("| ", 20),
    "spaces": (" ", 20),
    "blank lines": ("\n", 20),
    "row of a table": ("| Rent | 0.00 | 0.00 |\n", 20),
    "line of a form": ("Name: ________ Date: ________\n", 20),
    "line of figures, spaced": ("Total     0.00     0.00\n", 20),
    "line of figures": ("0.00 12.50 17.35\n", 20),
    "line of a table of contents": ("Chapter 1 ............... 7\n", 20),
}


@pytest.mark.parametrize(("pattern", "worth"), LOOPS.values(), ids=LOOPS)
def test_a_loop_is_cut_once_it_is_certain(pattern: str, worth: float) -> None:
    before = "It says:\n"
    text = before + pattern * (6000 // len(pattern))
    once = len(before + pattern)
    bound = once + max(worth * LINE_CHARS, (MIN_REPEATS - 1) * len(pattern))
    certain = bisect_left(range(len(text)), True, key=lambda end: find_loop(text[:end]) is not None)
    assert bound - len(pattern) <= certain <= bound + 1
    assert all(find_loop(text[:end]) is not None for end in range(certain, len(text), 61))
    detector = LoopDetector()
    assert detector.feed(text) and detector.num_chars <= bound + CHECK_CHARS
    cut = find_loop(text[: detector.num_chars])
    assert cut is not None and text[:cut].rstrip() == (before + pattern).rstrip()


COUNTERS = {
    "list": ("{i}. foo", 10),
    "sentence": ("{i}. The image shows a page of text.", 10),
    "two counters": ("Line {i} of the text on page {i}", 10),
    "one of two numbers": ("In 1999, house {i} was sold.", 10),
    "numbered blank lines": ("{i}. ________________________", 45),
    "bare numbers": ("{i}", 10),
}


@pytest.mark.parametrize(("line", "worth"), COUNTERS.values(), ids=COUNTERS)
def test_a_loop_that_counts_is_cut(line: str, worth: int) -> None:
    before = prose(200) + "\n"
    text = before + lines(3000, line)
    detector = LoopDetector()
    assert detector.feed(text)
    found = text[: detector.num_chars]
    digits_beyond_one = sum(len(str(i)) - 1 for i in range(1, found.count("\n"))) * max(1, line.count("{i}"))
    digits_beyond_one += 3 * found.count("1999")
    assert len(found) - len(before) - digits_beyond_one <= (
        worth * LINE_CHARS + len(line) + COUNTING_CHECK_CHARS
    )
    cut = find_loop(found)
    assert cut is not None and found[:cut].strip() == (before + line.replace("{i}", "1")).strip()


def test_a_loop_that_counts_begins_where_it_begins_to_count() -> None:
    before = "\n".join(f"{i}. foo" for i in (3, 9, 4, 11, 2, 17)) + "\n"
    text = before + "\n".join(f"{i}. foo" for i in range(30, 400))
    cut = find_loop(text)
    assert cut is not None and text[:cut].rstrip() == before + "30. foo"


def test_a_text_that_leaves_its_loop_has_none() -> None:
    assert find_loop("a" * 500) == 1
    assert find_loop("a" * 500 + " the end") is None


def test_huge_numbers_are_no_trouble() -> None:
    assert find_loop("x" + "9" * 10_000) == 2
    rows = "\n".join(f"No. {'7' * 6000}{i}" for i in range(100))
    assert find_loop(rows) is None


TEXTS = st.one_of(
    st.text(max_size=400),
    st.builds(
        lambda before, pattern, repeats, after: before + pattern * repeats + after,
        st.text(max_size=200),
        st.text(min_size=1, max_size=120),
        st.integers(1, 60),
        st.text(max_size=120),
    ),
    st.builds(lambda line, count: lines(count, line + "{i}"), st.text(max_size=30), st.integers(1, 300)),
)


@given(TEXTS, st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_how_a_text_is_split_makes_no_difference(text: str, sizes: list[int]) -> None:
    by_char, by_chunk = LoopDetector(), LoopDetector()
    for char in text:
        by_char.feed(char)
    rest = text
    while rest:
        for size in sizes:
            by_chunk.feed(rest[:size])
            rest = rest[size:]
    assert by_char.feed("") == by_chunk.feed("")
    assert by_char.num_chars == by_chunk.num_chars


@given(TEXTS)
def test_what_is_left_holds_the_pattern_once(text: str) -> None:
    cut = find_loop(text)
    if cut is not None:
        assert find_loop(text[:cut]) is None
        assert len(text) - cut > 2 * LINE_CHARS - 9 and 0 < cut < len(text)


@given(TEXTS)
def test_what_the_detector_finds_is_found_in_the_whole_text(text: str) -> None:
    detector = LoopDetector()
    if detector.feed(text):
        assert find_loop(text[: detector.num_chars]) is not None


def test_a_pattern_may_be_as_long_as_the_window_allows() -> None:
    pattern = prose(WINDOW_CHARS // MIN_REPEATS - CHECK_CHARS)
    assert LoopDetector().feed(pattern * (MIN_REPEATS + 1))
