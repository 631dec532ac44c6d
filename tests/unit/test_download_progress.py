"""How a download is shown at a terminal and in a log."""

from __future__ import annotations

import io
import sys

import pytest
from phi_vision.cli.download_progress import DownloadBar, DownloadLines, show_download

GB = 10**9


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    show = show_download()
    assert isinstance(show, DownloadBar)
    for done in (3 * GB, 5 * GB, 4 * GB, 8 * GB):  # it goes back where a wrong file is thrown away
        show(done, 8 * GB)
    first, *_, last = terminal.getvalue().replace("\n", "\r").strip("\r").split("\r")
    assert " 38%|" in first and " 3.00G/8.00G [" in first and "?B/s" in first
    assert "100%|" in last and " 8.00G/8.00G [" in last and "B/s]" in last
    assert terminal.getvalue().endswith("\n")


def test_a_log_has_a_line_now_and_then() -> None:
    lines: list[str] = []
    clock_s = iter((0, 0, 1, 10, 20, 50, 79, 80, 100))  # at the start, and at each call
    show = DownloadLines(lines.append, lambda: next(clock_s))
    for done in (2, 2.5, 2.7, 3, 3.02, 3.04, 3.04, 8):
        show(int(done * GB), 8 * GB)
    assert lines == [
        "downloading: 25 %, 2.00 of 8.00 GB",
        "downloading: 31 %, 2.50 of 8.00 GB, 500.0 MB/s, 0:00:11 left",
        "downloading: 37 %, 3.02 of 8.00 GB, 20.4 MB/s, 0:04:04 left",
        "downloading: 38 %, 3.04 of 8.00 GB, 13.0 MB/s, 0:06:22 left",
        "downloading: 100 %, 8.00 of 8.00 GB, 60.0 MB/s, 0:00:00 left",
    ]


def test_a_log_is_told_where_nothing_comes() -> None:
    lines: list[str] = []
    clock_s = iter((0, 0, 31))
    show = DownloadLines(lines.append, lambda: next(clock_s))
    for _ in range(2):
        show(2 * GB, 8 * GB)
    assert lines[1] == "downloading: 25 %, 2.00 of 8.00 GB, 0.0 MB/s, an unknown time left"


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(show_download(), DownloadLines)
