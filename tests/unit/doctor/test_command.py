"""`phi-vision doctor`: its lines, its JSON, its exit codes, at a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from phi_vision.cli.doctor import as_json, as_text
from phi_vision.doctor.checks import CHECKS
from phi_vision.doctor.finding import fail, ok, skipped

COMMAND = [sys.executable, "-m", "phi_vision", "doctor", "--model", "demo", "--quick"]


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield str(listening.getsockname()[1])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)


def test_a_line_a_finding_and_its_remedy_below() -> None:
    assert as_text("hub", ok("it answers")) == "ok       hub            it answers"
    assert as_text("port", fail("taken by \x1b[2J", "end it")).splitlines() == [
        r"fail     port           taken by \u001b[2J",
        "                        -> end it",
    ]
    assert as_text("hub", ok("x"), coloured=True).startswith("\x1b[32mok     \x1b[0m  hub")


def test_json_has_stable_fields() -> None:
    (row,) = json.loads(as_json([("driver", skipped("no\x07 GPU"))]))
    assert row == {"name": "driver", "level": "skipped", "summary": "no\x07 GPU", "remedy": None}


def test_a_machine_without_faults() -> None:
    done = run("--port", "0", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and not done.stderr, done.stdout
    levels = {row["name"]: row["level"] for row in found}
    assert list(levels) == [check.name for check in CHECKS if check.name in levels]
    assert {"packages", "device", "weights", "decoders"} <= levels.keys()
    assert levels["generation"] == "skipped"


def test_a_fault_is_exit_code_1_with_its_remedy(taken: str) -> None:
    done = run("--port", taken)
    assert done.returncode == 1 and not done.stderr and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    (line,) = [number for number, text in enumerate(lines) if text.startswith("fail")]
    assert re.match(rf"fail +port +127.0.0.1:{taken} is taken by ", lines[line])
    assert lines[line + 1].strip() == "-> end it, or choose another --port"
    assert re.match("1 failed, ", lines[-1])


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_shows_colours_and_what_is_looked_at(plain: bool) -> None:
    reading, writing = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1" if plain else ""}
    program = [*COMMAND, "--port", "0"]
    with subprocess.Popen(program, stdout=writing, stderr=writing, env=environment) as command:
        os.close(writing)
        shown = b""
        try:
            while piece := os.read(reading, 1 << 16):
                shown += piece
        except OSError:  # how a terminal says that the other side has gone
            pass
    os.close(reading)
    assert command.returncode == 0
    assert b"phi-vision: decoders ...\x1b[K\r" in shown
    assert (b"\x1b[32mok     \x1b[0m" in shown) is not plain


def test_a_setting_out_of_its_range_is_a_mistake() -> None:
    done = run("--port", "99999")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "phi-vision doctor: --port must be from 0 to 65535, not 99999\n"
