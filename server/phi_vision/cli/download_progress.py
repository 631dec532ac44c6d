"""How a download goes, on stderr: a bar at a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from phi_vision.batch.progress import duration
from phi_vision.cli.terminal import print_status

_LINE_INTERVAL_S = 30.0
_LINE_PERCENT = 10


def show_download() -> Callable[[int, int], None]:
    """What is called with the bytes that are here, and with how many there will be."""
    return DownloadBar() if sys.stderr.isatty() else DownloadLines()


class DownloadBar:
    """For a terminal. It ends its line once all is here."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Show that so many bytes are here."""
        if self._bar is None:
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # no thread beside the processes that vLLM forks
            self._bar = tqdm(
                total=total_bytes,
                initial=done_bytes,
                desc="phi-vision: downloading",
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        self._bar.update(done_bytes - self._bar.n)
        if done_bytes == total_bytes:
            self._bar.close()


class DownloadLines:
    """For a log.

    Args:
        print_line: takes a line without its end.
        clock: in seconds.
    """

    def __init__(
        self,
        print_line: Callable[[str], None] = print_status,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._print = print_line
        self._clock = clock
        self._started_s = self._printed_s = clock()
        self._printed_percent: int | None = None
        self._first_bytes = 0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Print a line if the last one is a while ago."""
        now_s, percent = self._clock(), 100 * done_bytes // max(1, total_bytes)
        amount = f"{percent} %, {done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB"
        if self._printed_percent is None:
            self._first_bytes = done_bytes
            self._print(f"downloading: {amount}")
        elif (
            now_s - self._printed_s >= _LINE_INTERVAL_S
            or percent // _LINE_PERCENT > self._printed_percent // _LINE_PERCENT
        ):
            rate = (done_bytes - self._first_bytes) / max(now_s - self._started_s, 1e-9)
            left = duration((total_bytes - done_bytes) / rate) if rate > 0 else "an unknown time"
            self._print(f"downloading: {amount}, {rate / 1e6:.1f} MB/s, {left} left")
        else:
            return
        self._printed_s, self._printed_percent = now_s, percent
