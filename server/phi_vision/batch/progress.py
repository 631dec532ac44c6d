"""How a run goes, on stderr: a bar at a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from phi_vision.batch.runner import Progress
from phi_vision.batch.work import Counts
from phi_vision.client.text import one_line

_LINE_INTERVAL_S = 30.0
_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Rates:
    """What was answered since the start, and how fast.

    Args:
        clock: in seconds.

    Attributes:
        seconds: from the start to the last change.
        num_ended: items that were done or have failed.
        completion_tokens: of the answers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self.num_ended = 0
        self.completion_tokens = 0
        self._clock = clock
        self._started_s = clock()

    def add(self, progress: Progress) -> None:
        """Count what has ended with a change."""
        self.seconds = self._clock() - self._started_s
        self.num_ended += len(progress.ended)
        self.completion_tokens += sum(_completion_tokens(record.result or {}) for record in progress.ended)

    def a_second(self, count: int) -> float:
        """A count of this run as a rate."""
        return count / max(self.seconds, 1e-9)


class ProgressBar:
    """For a terminal.

    Args:
        unit: what an item is called, in the plural.
        counts: before the start.
        rates: of the run.
        stream: where it is drawn.
    """

    def __init__(self, unit: str, counts: Counts, rates: Rates, stream: TextIO) -> None:
        from tqdm import tqdm

        self._rates = rates
        self._bar: Any = tqdm(
            total=sum(counts.values()),
            initial=counts["done"] + counts["failed"],
            unit=f" {unit}",
            bar_format=_BAR,
            dynamic_ncols=True,
            file=stream,
        )

    def show(self, progress: Progress) -> None:
        """After a change that `rates` has seen."""
        if progress.pause is not None:
            text = f"waiting: {one_line(str(progress.pause))}"
        else:
            tokens = self._rates.a_second(self._rates.completion_tokens)
            text = f"{tokens:.0f} tokens/s, {progress.counts['failed']} failed"
            if progress.concurrency is not None:
                text += f", {progress.concurrency} at a time"
        self._bar.set_postfix_str(text, refresh=progress.pause is not None)
        self._bar.update(len(progress.ended))

    def note(self, text: str) -> None:
        """Print a line above it."""
        self._bar.write(f"phi-vision: {text}", file=self._bar.fp)

    def close(self) -> None:
        """Leave it as it stands."""
        self._bar.close()


class ProgressLines:
    """For a log.

    Args:
        unit: see `ProgressBar`.
        rates: of the run.
        print_line: takes a line without its end.
    """

    def __init__(self, unit: str, rates: Rates, print_line: Callable[[str], None]) -> None:
        self._unit = unit
        self._rates = rates
        self._print = print_line
        self._printed_s = 0.0
        self._pause: str | None = None

    def show(self, progress: Progress) -> None:
        """Print a line if the last one is a while ago, or if the run has to wait for another reason."""
        pause = None if progress.pause is None else one_line(str(progress.pause))
        if pause is not None and pause != self._pause:
            self._print(f"waiting: {pause}")
        self._pause = pause
        if self._rates.seconds - self._printed_s < _LINE_INTERVAL_S:
            return
        self._printed_s = self._rates.seconds
        counts, rates = progress.counts, self._rates
        rate = rates.a_second(rates.num_ended)
        left = counts["waiting"] + counts["asked"]
        self._print(
            f"{counts['done'] + counts['failed']:,} of {sum(counts.values()):,} {self._unit}, "
            f"{counts['failed']:,} failed, {rate:.2f} {self._unit}/s, "
            f"{rates.a_second(rates.completion_tokens):.0f} tokens/s, "
            f"{duration(left / rate) if rate else 'an unknown time'} left"
        )

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def close(self) -> None:
        """There is nothing to leave."""


def _completion_tokens(result: Mapping[str, Any]) -> int:
    """Of a page's result, or of a response to a line, which may say anything."""
    usage = result.get("usage") or (result.get("body") or {}).get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return tokens if isinstance(tokens, int) else 0


def duration(seconds: float) -> str:
    """As `1:05:09`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
