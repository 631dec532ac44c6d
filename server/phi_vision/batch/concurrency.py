"""How many requests are under way at a time: a number, or as many as the servers answer faster for."""

from __future__ import annotations

import time
from collections.abc import Callable

LOWEST = 1
HIGHEST = 256

_START = 4
_ANSWERS_A_SLOT = 2  # in a round, in which a rate is measured
_FEWEST_ANSWERS = 16
_FAST_STEP = 2.0  # until the first trial that fails
_STEP = 1.25
_WORTHWHILE = 0.2  # of a step must be seen in the rate: 20% more answers for twice the requests
_ROUNDS_AT_REST = 10  # after a trial that failed
_ROUNDS_BELOW_CEILING = 50  # before a value is tried again at which a server was full


class ConcurrencyLimit:
    """Always the same number.

    Args:
        value: requests at a time.
    """

    def __init__(self, value: int) -> None:
        self.value = value

    @staticmethod
    def auto(clock: Callable[[], float] = time.monotonic) -> ConcurrencyLimit:
        """One that looks for the number, from `LOWEST` to `HIGHEST`.

        Args:
            clock: seconds that never go back.
        """
        return _AutoLimit(clock)

    def answered(self, in_flight: int) -> None:
        """An answer came back.

        Args:
            in_flight: requests that were under way until then, this one included.
        """

    def overloaded(self) -> None:
        """A server refused a request because it is full."""


class _AutoLimit(ConcurrencyLimit):
    """Climbs as long as the rate of answers climbs with it, and falls by half on an overload.

    It measures the rate in rounds. `value` is either the base or a trial, a step above or below it, which
    becomes the base if its rate is worth it. After each change it first waits for as many answers as requests
    were under way, so that a burst of refusals counts once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(_START)
        self._clock = clock
        self._step = _FAST_STEP
        self._is_upwards = True
        self._base = _START
        self._base_rate = 0.0  # answers a second
        self._rounds_at_rest = 0
        self._ceiling = HIGHEST
        self._rounds_below_ceiling = 0
        self._outdated = _START  # answers still to come to requests from before the last change
        self._begin_round()

    def answered(self, in_flight: int) -> None:
        """See there; measures only while all of the limit is used."""
        if self._outdated or in_flight < self.value:
            self._outdated = max(0, self._outdated - 1)
            self._begin_round()
            return
        self._answers += 1
        if self._answers >= max(_ANSWERS_A_SLOT * self.value, _FEWEST_ANSWERS):
            self._end_round(self._answers / max(self._clock() - self._since_s, 1e-9))

    def overloaded(self) -> None:
        """See there."""
        if self._outdated:
            return
        self._ceiling = max(LOWEST, self.value - 1)
        self._rounds_below_ceiling = _ROUNDS_BELOW_CEILING
        self._step, self._is_upwards, self._rounds_at_rest = _STEP, True, 0
        self._base = max(LOWEST, self.value // 2)
        self._change(self._base)

    def _begin_round(self) -> None:
        self._answers = 0
        self._since_s = self._clock()

    def _end_round(self, rate: float) -> None:
        self._rounds_below_ceiling -= 1
        if self._rounds_below_ceiling <= 0:
            self._ceiling = HIGHEST
        change = self.value / self._base - 1
        if change and rate < self._base_rate * (1 + _WORTHWHILE * change):
            self._step, self._is_upwards, self._rounds_at_rest = _STEP, not self._is_upwards, _ROUNDS_AT_REST
            self._change(self._base)
            return
        self._base, self._base_rate = self.value, rate
        self._rounds_at_rest -= 1
        self._change(self.value if self._rounds_at_rest > 0 else self._trial())

    def _trial(self) -> int:
        """A step from the base; the base itself at a bound, where the next trial goes the other way."""
        if self._is_upwards:
            trial = min(self._ceiling, max(self._base + 1, int(self._base * self._step)))
        else:
            trial = max(LOWEST, min(self._base - 1, int(self._base / self._step)))
        if trial == self._base:
            self._is_upwards = not self._is_upwards
        return trial

    def _change(self, value: int) -> None:
        if value != self.value:
            self._outdated = max(self.value, value)
            self.value = value
        self._begin_round()
