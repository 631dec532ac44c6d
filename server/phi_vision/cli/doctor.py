"""`phi-vision doctor`: looks at what a server depends on, a line a point, with the remedy below."""

from __future__ import annotations

import argparse
import json
import os
import sys

from phi_vision.cli.plan import DOCTOR_SETTINGS
from phi_vision.cli.terminal import erase_passing, exit_on_signals, print_passing
from phi_vision.client.text import visible
from phi_vision.config import ServeConfig
from phi_vision.doctor.checks import CHECKS, examine
from phi_vision.doctor.finding import Finding, Level
from phi_vision.doctor.setup import Setup

_COLOURS = {Level.OK: 32, Level.WARN: 33, Level.FAIL: 31, Level.SKIPPED: 90}
_LEVEL_CHARS = max(map(len, Level))
_NAME_CHARS = max(len(check.name) for check in CHECKS)


def doctor(options: argparse.Namespace) -> int:
    """Run the command with parsed `options` (see `cli`).

    Returns:
        The exit code: 1 if a check failed, else 0.

    Raises:
        UsageError: a setting out of its range.
    """
    running = ""

    def on_start(name: str) -> None:
        nonlocal running
        running = name
        print_passing(f"{name} ...")

    def progress(text: str) -> None:
        print_passing(f"{running}: {text}")

    config = ServeConfig(**{name: getattr(options, name) for name in DOCTOR_SETTINGS})
    setup = Setup(config, progress)
    found: list[tuple[str, Finding]] = []
    with exit_on_signals():
        for name, finding in examine(setup, quick=options.quick, on_start=on_start):
            found.append((name, finding))
            if not options.json:
                erase_passing()
                print(as_text(name, finding, coloured=_takes_colours()), flush=True)
    erase_passing()
    print(as_json(found) if options.json else f"\n{_total(found)}")
    return 1 if _count(found, Level.FAIL) else 0


def as_text(name: str, finding: Finding, *, coloured: bool = False) -> str:
    """A finding as a line, and its remedy as another below."""
    level = f"{finding.level:<{_LEVEL_CHARS}}"
    if coloured:
        level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
    lines = [f"{level}  {name:<{_NAME_CHARS}}  {visible(finding.summary)}"]
    if finding.remedy:
        lines.append(f"{'':{_LEVEL_CHARS + _NAME_CHARS + 4}}-> {visible(finding.remedy)}")
    return "\n".join(lines)


def as_json(found: list[tuple[str, Finding]]) -> str:
    """A list of findings, for machines."""
    rows = [{"name": name, **vars(finding)} for name, finding in found]
    return visible(json.dumps(rows, indent=2, ensure_ascii=False))


def _total(found: list[tuple[str, Finding]]) -> str:
    failed, warned = _count(found, Level.FAIL), _count(found, Level.WARN)
    if not failed and not warned:
        return "All is well."
    return (
        f"{failed} failed, {warned} to be looked at."
        if failed
        else f"Nothing failed, {warned} to be looked at."
    )


def _count(found: list[tuple[str, Finding]], level: Level) -> int:
    return sum(finding.level == level for _, finding in found)


def _takes_colours() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
