"""What the balancer knows of each server, and which it asks first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from phi_vision.client.readiness import STARTING

READY = "ready"


@dataclass
class Member:
    """One server.

    Args:
        number: from 1.
        url: without a path; None while nothing listens there.
        state: `READY`, or in a few words why a request should go elsewhere.
        silent_since: on the event loop's clock; None while it answers.
        in_flight: requests that it has from the balancer.
        was_ready: whether it has ever been.
    """

    number: int
    url: str | None = None
    state: str = STARTING
    silent_since: float | None = None
    in_flight: int = 0
    was_ready: bool = False

    @property
    def ready(self) -> bool:
        """Whether it said that it would take a request."""
        return self.state == READY

    @property
    def reachable(self) -> bool:
        """Whether it answers, be it with a refusal."""
        return self.url is not None and self.silent_since is None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a request while it is there."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


@dataclass
class Members:
    """All servers."""

    all: Sequence[Member]
    _turn: Iterator[int] = field(default_factory=itertools.count)

    def in_order(self) -> list[Member]:
        """Those to ask, in this order: ready ones first, the least busy of them first, equal ones in turn.

        One that is not ready says itself why, in the words and with the `Retry-After` that clients know.
        """
        shift = next(self._turn) % len(self.all)
        turned = [*self.all[shift:], *self.all[:shift]]
        return sorted(
            (member for member in turned if member.reachable),
            key=lambda member: (not member.ready, member.in_flight),
        )

    @property
    def any_ready(self) -> bool:
        """Whether a request sent now would be taken."""
        return any(member.ready and member.reachable for member in self.all)

    @property
    def state(self) -> str:
        """In a few words, of the one that is furthest."""
        states = [member.state for member in self.all]
        return READY if READY in states else states[0]
