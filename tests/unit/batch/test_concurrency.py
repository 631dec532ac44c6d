"""The limit that looks for itself, on servers whose time is computed."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest
from phi_vision.batch.concurrency import HIGHEST, LOWEST, ConcurrencyLimit


class Simulation:
    """A server that works at `slots` requests at a time and refuses more than `queue` at once.

    Args:
        slots: more requests than these share its work.
        places: requests at a time that it takes at all.
        seconds: how long a request takes where there are slots, by its number.
    """

    def __init__(
        self, slots: int, places: int = 10_000, seconds: Callable[[int], float] = lambda number: 1.0
    ) -> None:
        self.slots = slots
        self.places = places
        self.seconds = seconds
        self.now = 0.0
        self.limit = ConcurrencyLimit.auto(lambda: self.now)
        self.values: list[int] = []  # of the limit, after each answer
        self.refused = 0
        self._ends: list[float] = []
        self._number = 0

    def run(self, answers: int) -> None:
        for _ in range(answers):
            while len(self._ends) < self.limit.value:
                if len(self._ends) >= self.places:
                    self.refused += 1
                    self.limit.overloaded()
                    break  # the run pauses
                share = max(1.0, (len(self._ends) + 1) / self.slots)
                heapq.heappush(self._ends, self.now + self.seconds(self._number) * share)
                self._number += 1
            in_flight = len(self._ends)
            self.now = heapq.heappop(self._ends)
            self.limit.answered(in_flight)
            self.values.append(self.limit.value)


def test_a_fixed_limit_stays() -> None:
    limit = ConcurrencyLimit(7)
    for _ in range(100):
        limit.answered(7)
        limit.overloaded()
    assert limit.value == 7


@pytest.mark.parametrize("slots", [1, 4, 16, 64])
def test_it_finds_where_the_rate_stops_growing(slots: int) -> None:
    """And stays there, but for trials a step above and below."""
    server = Simulation(slots)
    server.run(4000)
    settled = server.values[1000:]
    assert Counter(settled).most_common(1)[0][0] == slots
    assert int(slots / 1.25) - 1 <= min(settled) and max(settled) <= max(1.25 * slots, slots + 1)


def test_it_grows_to_the_bound_for_a_server_without_one() -> None:
    server = Simulation(100_000)
    server.run(3000)
    assert max(server.values) == server.values[-1] == HIGHEST


def test_it_stays_where_requests_take_differently_long() -> None:
    rng = random.Random(0)
    server = Simulation(16, seconds=lambda number: rng.expovariate(1.0))
    server.run(20_000)
    settled = sorted(server.values[1000:])
    assert settled[len(settled) // 10] >= 8 and settled[len(settled) * 9 // 10] <= 64


def test_it_falls_by_half_where_a_server_is_full_and_stays_below() -> None:
    server = Simulation(slots=64, places=20)
    server.run(5000)
    settled = server.values[500:]
    assert min(settled) >= 10 and max(settled) <= 25
    assert Counter(settled).most_common(1)[0][0] == 20
    assert server.refused < 250


def test_a_burst_of_refusals_counts_once() -> None:
    now = 0.0
    limit = ConcurrencyLimit.auto(lambda: now)
    while limit.value < 64:
        now += 1 / limit.value  # a server without a bound
        limit.answered(limit.value)
    value = limit.value
    for _ in range(value):  # to what was under way before the last step
        limit.answered(value)
    while value > LOWEST:
        value //= 2
        for _ in range(100):
            limit.overloaded()
        assert limit.value == value
        for _ in range(2 * value):
            limit.answered(value)
    limit.overloaded()
    assert limit.value == LOWEST


def test_it_does_not_grow_while_it_is_not_used() -> None:
    now = 0.0
    limit = ConcurrencyLimit.auto(lambda: now)
    for _ in range(1000):
        now += 1.0
        limit.answered(3)
    assert limit.value == 4


def test_it_finds_a_new_place_where_the_work_changes() -> None:
    """Pages that take ten times as long: the old rate is no measure of the new one."""
    server = Simulation(32, seconds=lambda number: 1.0 if number < 2000 else 10.0)
    server.run(2000)
    server.slots = 128
    server.run(4000)
    assert server.limit.value >= 96


def test_a_clock_that_stands_still_does_no_harm() -> None:
    limit = ConcurrencyLimit.auto(lambda: 0.0)
    for _ in range(10_000):
        limit.answered(limit.value)
    assert LOWEST <= limit.value <= HIGHEST
