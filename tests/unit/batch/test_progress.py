"""What a run shows of itself."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from phi_vision.batch.progress import ProgressBar, ProgressLines, Rates
from phi_vision.batch.runner import Progress
from phi_vision.batch.work import Counts, Item, Record, TryLater


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def counts(done: int = 0, failed: int = 0, waiting: int = 0) -> Counts:
    return {"waiting": waiting, "asked": 0, "done": done, "failed": failed}


def ended(*tokens: Any) -> list[Record]:
    return [
        Record(n, Item(str(n), {}), "done", 1, {"usage": {"completion_tokens": each}})
        for n, each in enumerate(tokens)
    ]


def progress(after: Counts, *records: Record, pause: str | None = None) -> Progress:
    return Progress(after, records, 8, None if pause is None else TryLater(pause, 1.0))


def test_rates_are_of_this_start(clock: Clock) -> None:
    rates = Rates(clock)
    clock.now_s += 4
    line = Record(0, Item("a", {}), "done", 1, {"body": {"usage": {"completion_tokens": 5}}})
    odd = [
        Record(0, Item("a", {}), "done", 1, body) for body in ({"body": {"usage": 7}}, {"usage": None}, None)
    ]
    rates.add(progress(counts(done=50), *ended(10, 20, None, "x"), line, *odd))
    assert (rates.seconds, rates.num_ended, rates.completion_tokens) == (4, 8, 35)
    assert rates.a_second(rates.num_ended) == 2


def test_a_bar_has_rates_errors_and_the_time_left(clock: Clock) -> None:
    stream, rates = io.StringIO(), Rates(clock)
    bar = ProgressBar("pages", counts(done=3, failed=1, waiting=6), rates, stream)
    clock.now_s += 2
    for change in (
        progress(counts(done=5, failed=1, waiting=4), *ended(10, 30)),
        progress(counts(done=5, failed=1, waiting=4), pause="http://x is\nfull"),
    ):
        rates.add(change)
        bar.show(change)
    bar.note("a note")
    bar.close()
    shown = stream.getvalue()
    assert "6/10" in shown and "pages/s" in shown and "60%" in shown
    assert "waiting: http://x is full" in shown and "phi-vision: a note\n" in shown


def test_the_figures_of_a_bar(clock: Clock) -> None:
    stream, rates = io.StringIO(), Rates(clock)
    bar = ProgressBar("pages", counts(waiting=2), rates, stream)
    clock.now_s += 2
    change = progress(counts(done=1, failed=1), *ended(10, 30))
    rates.add(change)
    bar.show(change)
    bar.close()
    assert "20 tokens/s, 1 failed, 8 at a time" in stream.getvalue()


def test_a_log_gets_a_line_now_and_then(clock: Clock) -> None:
    lines: list[str] = []
    rates = Rates(clock)
    log = ProgressLines("pages", rates, lines.append)

    def show(after_s: float, change: Progress) -> None:
        clock.now_s += after_s
        rates.add(change)
        log.show(change)

    show(29, progress(counts(done=1, waiting=7299), *ended(10)))
    assert lines == []
    show(1, progress(counts(done=2, failed=1, waiting=7297), *ended(20, 30)))
    assert lines == ["3 of 7,300 pages, 1 failed, 0.10 pages/s, 2 tokens/s, 20:16:10 left"]
    show(29, progress(counts(done=3, failed=1, waiting=7296), *ended(10)))
    assert len(lines) == 1
    log.close()


def test_a_log_says_once_why_it_waits(clock: Clock) -> None:
    lines: list[str] = []
    log = ProgressLines("pages", Rates(clock), lines.append)
    for pause in ("full", "full", None, "full", "gone"):
        log.show(progress(counts(waiting=1), pause=pause))
    assert lines == ["waiting: full", "waiting: full", "waiting: gone"]


def test_before_the_first_answer_no_time_is_known(clock: Clock) -> None:
    lines: list[str] = []
    rates = Rates(clock)
    show: Callable[[Progress], None] = ProgressLines("requests", rates, lines.append).show
    clock.now_s += 60
    rates.add(change := progress(counts(waiting=2)))
    show(change)
    assert lines == ["0 of 2 requests, 0 failed, 0.00 requests/s, 0 tokens/s, an unknown time left"]
