"""The whole of `phi-vision doctor`, which starts an engine of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.full
def test_the_demo_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
    command = [sys.executable, "-m", "phi_vision", "doctor", "--model", "demo", "--port", port, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert found["generation"]["level"] == found["engine"]["level"] == "ok"
    assert "red circle" in found["generation"]["summary"]
