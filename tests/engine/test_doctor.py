"""The whole of `phi-vision doctor`, which starts an engine of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.full
def test_the_demo_answers() -> None:
    command = [sys.executable, "-m", "phi_vision", "doctor", "--model", "demo", "--port", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert found["generation"]["level"] == found["engine"]["level"] == "ok"
    assert "red circle" in found["generation"]["summary"]
