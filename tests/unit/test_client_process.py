"""One server process: started, awaited, stopped. The server here is a few lines of Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from phi_vision.client.process import ServerProcess, ServerStartError

# Announces itself as `phi-vision serve` does, and is ready when it is asked the third time.
SERVER = """
import http.server
SAID = [b'{"status": "downloading", "percent": 43}', b'{"status": "load\\u001bing"}', b""]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = SAID.pop(0)
        self.send_response(503 if said else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    print(f"  listening     http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
"""
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
signal.pause()
"""


def started(tmp_path: Path, program: str, **options: object) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", program], tmp_path / "log.txt", **options)  # type: ignore[arg-type]


def test_it_is_awaited_on_the_port_that_it_announces_and_stopped(tmp_path: Path) -> None:
    waits: list[float] = []
    states: list[str] = []

    def on_wait(waited_s: float, state: str) -> None:
        waits.append(waited_s)
        states.append(state)

    with started(tmp_path, SERVER) as server:
        server.wait_until_ready(on_wait=on_wait)
        assert server.base_url == f"http://127.0.0.1:{server.port}/v1"
        assert server.log.count('"GET /readyz HTTP/1.1" 503') == 2
    assert waits == sorted(waits)
    assert [state for state in states if state != "starting"] == ["downloading 43 %", "load\\u001bing"]
    assert server.process.returncode == -signal.SIGTERM


def test_one_that_ends_too_soon_says_why(tmp_path: Path) -> None:
    program = "import os; print('early'); print(os.environ['REASON'])"
    with (
        started(tmp_path, program, env={"REASON": "out of luck"}) as server,
        pytest.raises(ServerStartError, match=r"did not start: out of luck$"),
    ):
        server.wait_until_ready()
    assert server.stop() == 0


def test_one_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    with (
        started(tmp_path, "import signal; signal.pause()") as server,
        pytest.raises(ServerStartError, match=r"not ready after 0 s \(starting\): it printed nothing"),
    ):
        server.wait_until_ready(timeout_s=0)
    with pytest.raises(ServerStartError, match="where it listens"):
        _ = server.port


def test_one_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    with started(tmp_path, STUBBORN) as server:
        while not server.log.endswith("\n"):
            assert server.process.poll() is None
        child = psutil.Process(int(server.log))
        assert server.stop(timeout_s=0.1) == -signal.SIGKILL
    assert not psutil.wait_procs([child])[1]


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from phi_vision.client.process import ServerProcess\n"
        "command = [sys.executable, '-c', 'import signal; signal.pause()']\n"
        "print(ServerProcess(command, Path(sys.argv[1])).process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log.txt")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        os.kill(starter.pid, signal.SIGKILL)
    assert not psutil.wait_procs([server])[1]
