"""The checks as a list: their order, what is left out, and one that cannot be made."""

from __future__ import annotations

from phi_vision.doctor.checks import CHECKS, Check, examine
from phi_vision.doctor.finding import Level, ok
from phi_vision.doctor.setup import Setup
from phi_vision.errors import UsageError


def test_names_are_stable_and_for_machines() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalpha() and name.islower() for name in names)


def test_a_check_that_cannot_be_made_does_not_stop_the_others() -> None:
    def breaks(_: Setup) -> None:
        raise ZeroDivisionError("by \x1b[31mnothing\nat all")

    def refuses(_: Setup) -> None:
        raise UsageError("it is so: do this")

    checks = [
        Check("first", breaks),
        Check("second", refuses),
        Check("third", lambda _: None),
        Check("fourth", lambda _: ok("well")),
    ]
    started: list[str] = []
    found = dict(examine(Setup(), on_start=started.append, checks=checks))
    assert started == ["first", "second", "third", "fourth"] and list(found) == ["first", "second", "fourth"]
    assert found["first"].level == Level.FAIL and found["first"].remedy
    assert found["first"].summary == (
        r"this could not be checked: ZeroDivisionError: by \u001b[31mnothing at all"
    )
    assert (found["second"].level, found["second"].summary) == (Level.FAIL, "it is so: do this")
    assert found["fourth"] == ok("well")


def test_the_slow_ones_are_skipped_where_it_is_to_be_quick() -> None:
    def must_not_run(_: Setup) -> None:
        raise AssertionError

    checks = [Check("slow", must_not_run, is_slow=True), Check("other", lambda _: ok("well"))]
    found = dict(examine(Setup(), quick=True, checks=checks))
    assert [finding.level for finding in found.values()] == [Level.SKIPPED, Level.OK]
