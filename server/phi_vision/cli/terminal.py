"""What the commands do at a terminal beside printing their results."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def print_status(text: str) -> None:
    """To stderr, beside the answer."""
    print(f"phi-vision: {text}", file=sys.stderr, flush=True)


def print_passing(text: str) -> None:
    """To a terminal, in a line that the next one replaces; a log gets none of it."""
    if sys.stderr.isatty():
        print(f"phi-vision: {text}\x1b[K", end="\r", file=sys.stderr, flush=True)


def erase_passing() -> None:
    """Clear that line, for what is printed next."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """An own engine and a draft go with the command, also when it is told to stop or the terminal goes."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    ours = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    with on_signals(ours, end):
        yield


def stop_signals() -> list[signal.Signals]:
    """Those that stop a long run. One that is ignored stays so: `nohup` does that."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in stops if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def on_signals(numbers: Sequence[signal.Signals], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle signals so for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)
