"""Start the real server, as a user would, and stop it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import openai

_LISTENING = re.compile(r"^  listening +http://[^\s/]+:(\d+)/v1$", re.MULTILINE)

PATIENCE_S = 900  # for an answer or a start, which a busy machine may make slow; no test waits for its end


@dataclass(frozen=True)
class Server:
    """A `phi-vision serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @cached_property
    def port(self) -> int:
        """The port that it asked the system for, once its summary is there."""
        listening = _LISTENING.search(self.log)
        assert listening is not None, self.log
        return int(listening[1])

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
            [sys.executable, *program, "--port", "0", *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield Server(process, log_path)
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
        _wait_until_ready(server)
        yield server


def stop(process: subprocess.Popen[bytes], timeout_s: float = 60) -> int:
    """Ask it to end, then make it; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    return process.returncode


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}:\n{server.log[-4000:]}")
        # Its summary comes before it listens.
        if _LISTENING.search(server.log):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                    return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start in {PATIENCE_S} s:\n{server.log[-4000:]}")
