"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # a server starts, but not as one may expect
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Args:
        level: how bad it is.
        summary: what was found, on one line.
        remedy: what to do about it; None where nothing has to be done, or where the summary says it.
    """

    level: Level
    summary: str
    remedy: str | None = None


def ok(summary: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, summary)


def warn(summary: str, remedy: str | None = None) -> Finding:
    """It works, but not as one may expect."""
    return Finding(Level.WARN, summary, remedy)


def fail(summary: str, remedy: str | None = None) -> Finding:
    """It does not work."""
    return Finding(Level.FAIL, summary, remedy)


def skipped(why: str) -> Finding:
    """It was not looked at."""
    return Finding(Level.SKIPPED, why)
