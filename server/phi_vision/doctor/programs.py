"""Small programs in a Python of their own: what they import is heavy, or may end the process."""

from __future__ import annotations

import subprocess
import sys

from phi_vision.client.text import one_line

LIMIT_S = 300.0


def run(code: str, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    """Run a program.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `limit_s`.
    """
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s)


def error_of(code: str, limit_s: float = LIMIT_S) -> str | None:
    """Why a program fails: the last line that it prints to stderr; None if it does not fail."""
    try:
        done = run(code, limit_s)
    except subprocess.TimeoutExpired:
        return f"it is not done after {limit_s:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return one_line(lines[-1]) if lines else f"it ends with {done.returncode}"
