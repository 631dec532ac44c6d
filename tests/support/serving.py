"""Start the real server, as a user would, and stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import openai
import psutil
from phi_vision.client.process import announced_port

# The system may leave a client of a busy machine without a processor for half a minute, also between
# connecting and sending. That is not what these tests are about.
PATIENT_FLAGS = ("--client-timeout-s", "900", "--decode-timeout-s", "600")
PATIENT_ENV = {
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "900",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",  # the tests and the API process work at the same time
}
PATIENCE_S = 900  # for an answer or a start, which a busy machine may make slow; no test waits for its end


@dataclass(frozen=True)
class Server:
    """A `phi-vision serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @cached_property
    def port(self) -> int:
        """The port that it asked the system for, once its summary is there."""
        port = announced_port(self.log)
        assert port is not None, self.log
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def client(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=api_key, max_retries=0, timeout=PATIENCE_S)


@contextmanager
def starting_server(
    log_path: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "phi_vision", "serve"),
) -> Iterator[Server]:
    """`phi-vision serve` with these flags, not yet ready; `program` is what Python runs."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", *PATIENT_FLAGS, *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **PATIENT_ENV, **(env or {})},
            start_new_session=True,
        )
    server = Server(process, log_path)
    try:
        yield server
        if process.poll() is None and announced_port(server.log) is not None:  # from then on it owes that
            _check_clean_stop(server)
    finally:
        stop(process)


@contextmanager
def running_server(
    log_path: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "phi_vision", "serve"),
) -> Iterator[Server]:
    """The same, ready to answer."""
    with starting_server(log_path, *flags, env=env, program=program) as server:
        wait_until_ready(server)
        yield server


def stop(process: subprocess.Popen[bytes], timeout_s: float = PATIENCE_S) -> int:
    """Ask it to end, then make it; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    return process.returncode


def _check_clean_stop(server: Server) -> None:
    """SIGTERM ends every server of the suite with exit code 0, and leaves no process and no file."""
    first = psutil.Process(server.process.pid)
    family = first.children(recursive=True)
    locks = [Path(file.path) for file in first.open_files() if file.path.endswith("/lock")]
    assert stop(server.process) == 0, server.log[-4000:]
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == [], server.log[-4000:]
    assert locks and not [lock for lock in locks if lock.parent.exists()]


def eventually(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a state; the time is for those that never come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}:\n{server.log[-4000:]}")
        if announced_port(server.log) is not None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                    return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start in {PATIENCE_S} s:\n{server.log[-4000:]}")
