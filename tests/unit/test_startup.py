"""A start that is told to stop, or whose first process is killed, leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.planning.weights_cache import is_needed
from phi_vision.serving import startup

from tests.support.hub import Fault, running_hub
from tests.support.hub_cache import FIRST, HUB_ID, SHARDED
from tests.support.serving import PATIENCE_S, Server, children, eventually, starting_server
from tests.support.stub_server import StubServer, ask, stub_program

# Starts a process in each of vLLM's ways, and one below it; each says its id and then waits for ever.
FAMILY = r"""
import multiprocessing, os, sys, time
from phi_vision import processes
from phi_vision.serving import startup

def child(grandchild):
    processes.watch()
    if grandchild:
        multiprocessing.get_context("fork").Process(target=child, args=(False,)).start()
    os.write(1, f"{os.getpid()}\n".encode())  # whole lines, whoever else writes
    while True:
        try:
            time.sleep(1000)
        except BaseException:  # as libraries do
            pass

if __name__ == "__main__":
    startup.end_at_once_on_signals(startup.end_children)
    processes.watch()
    for method in ("fork", "spawn"):
        multiprocessing.get_context(method).Process(target=child, args=(True,)).start()
    child(False)
"""
FAMILY_SIZE = 5

NEEDED_BYTES = sum(len(content) for name, content in SHARDED.items() if is_needed(name))


@contextmanager
def family(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    program = folder / "family.py"
    program.write_text(FAMILY)
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    members = [psutil.Process(int(process.stdout.readline())) for _ in range(FAMILY_SIZE)]
    try:
        yield process, [member for member in members if member.pid != process.pid]
    finally:
        for member in members:
            if member.is_running():
                member.kill()
        process.communicate()


def all_end(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return not alive


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    with family(tmp_path) as (first, others):
        first.kill()
        assert all_end(others)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_start_and_all_its_processes(
    number: signal.Signals, exit_code: int, tmp_path: Path
) -> None:
    with family(tmp_path) as (first, others):
        first.send_signal(number)
        assert first.wait(PATIENCE_S) == exit_code and all_end(others)


def test_a_signal_to_a_forked_process_ends_that_one_alone() -> None:
    program = """
import os, signal, sys
from phi_vision.serving import startup
startup.end_at_once_on_signals(lambda: os.write(1, b"cleaned up"))
child = os.fork()
if child == 0:
    signal.raise_signal(signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n", done.stderr


def test_a_thread_that_ends_does_not_end_what_it_forked() -> None:
    """The kernel's signal comes with the end of a thread: only those of the main thread ask for it."""
    program = """
import os, threading
from phi_vision import processes
processes.watch()
ready, says = os.pipe()
go, lets = os.pipe()

def fork():
    if os.fork() == 0:
        os.read(go, 1)  # the thread is gone by then
        os.write(says, b"alive")
        os._exit(0)

thread = threading.Thread(target=fork)
thread.start()
while os.path.exists(f"/proc/self/task/{thread.native_id}"):
    pass  # the system's own thread ends after Python's
os.write(lets, b"x")
os.close(says)
print(os.read(ready, 5).decode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n", done.stderr


def test_the_port_is_held_from_the_start_and_0_is_a_free_one() -> None:
    with startup.listen("127.0.0.1", 0) as first, startup.listen("127.0.0.1", 0) as second:
        ports = {opened.getsockname()[1] for opened in (first, second)}
        assert len(ports) == 2 and 0 not in ports
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:0"):
        startup.listen("192.0.2.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="already in use"):
        startup.listen("127.0.0.1", taken.getsockname()[1])


def readyz(server: Server) -> Any:
    """What it says; None while it does not answer."""
    try:
        return httpx.get(f"{server.url}/readyz").json() if server.announced else None
    except httpx.TransportError:
        return None


def is_held(server: Server, fault: Fault) -> bool:
    assert server.process.poll() is None, server.log
    return fault.reached.is_set()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_during_the_download_leaves_what_has_come(
    number: signal.Signals, exit_code: int, tmp_path: Path
) -> None:
    with running_hub() as hub, tempfile.TemporaryDirectory() as temporary:
        hub.faults[FIRST] = [held := Fault(hold_after=700)]
        env = {**hub.environment, "HF_HUB_CACHE": str(tmp_path / "hub"), "TMPDIR": temporary}
        with starting_server(tmp_path / "log.txt", "--model", HUB_ID, env=env) as server:
            eventually(lambda: is_held(server, held))
            percent = 100 * (NEEDED_BYTES - len(SHARDED[FIRST]) + 700) // NEEDED_BYTES
            eventually(lambda: readyz(server) == {"status": "downloading", "percent": percent})
            below = psutil.Process(server.process.pid).children(recursive=True)
            server.process.send_signal(number)
            assert server.process.wait(PATIENCE_S) == exit_code, server.log
            assert len(below) == 1 and all_end(below) and os.listdir(temporary) == []
        (partial,) = (tmp_path / "hub").rglob(f"{hub.digests[FIRST]}.incomplete")
        assert partial.read_bytes() == SHARDED[FIRST][:700]
        assert "Traceback" not in server.log
        assert server.log.endswith("phi-vision serve: stopped before it was ready\n")


@pytest.mark.full
def test_the_first_start_answers_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """Weights from a hub, then the server itself, and no moment at which the port does not answer."""
    weights = "model.safetensors"
    files = {file.name: file.read_bytes() for file in DEMO_FOLDER.iterdir() if file.is_file()}
    with running_hub(files) as hub:
        half = len(files[weights]) // 2
        hub.faults[weights] = [held := Fault(hold_after=half)]
        env = {**hub.environment, "HF_HUB_CACHE": str(tmp_path / "hub")}
        with StubServer(tmp_path, "--model", HUB_ID, env=env) as server:
            eventually(lambda: is_held(server, held))
            eventually(lambda: (readyz(server) or {}).get("percent", 0) > 45)
            assert readyz(server)["status"] == "downloading" and readyz(server)["percent"] < 60
            assert httpx.get(f"{server.url}/livez").status_code == 200
            assert ask(server, "/v1/chat/completions", "too early").status_code == 503
            assert httpx.get(f"{server.url}/").text.startswith("<!doctype html>")
            held.let_go.set()
            while (answer := httpx.get(f"{server.url}/readyz")).status_code == 503:
                assert answer.json()["status"] in ("downloading", "loading")
            assert answer.json() == {"status": "ok"}
            body = {"model": "phi-3.5-vision", "messages": [{"role": "user", "content": "now"}]}
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
            eventually(lambda: not children(server.process.pid, "startup_server"))
        assert "phi-vision: downloading: 100 %" in server.log and "Traceback" not in server.log


@pytest.mark.parametrize("stubbed", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_stop_during_the_start_leaves_nothing(stubbed: bool, tmp_path: Path) -> None:
    """While vLLM is imported, and, with the stub, just before it serves: the signals change hands there."""
    program = stub_program(tmp_path) if stubbed else ("-m", "phi_vision", "serve", "--model", "demo")
    with tempfile.TemporaryDirectory() as temporary:
        # The stub imports vLLM before the launcher can say where caches belong.
        env = {"TMPDIR": temporary, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        with starting_server(tmp_path / "log.txt", env=env, program=program) as server:
            if stubbed:
                eventually(lambda: "Available routes are" in server.log)
            else:
                eventually(lambda: readyz(server) == {"status": "loading"})
            below = psutil.Process(server.process.pid).children(recursive=True)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE_S) == 0, server.log[-3000:]
            assert all_end(below) and os.listdir(temporary) == []
