"""A server of one's own: start it, wait for it, stop it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import httpx

from phi_vision.client.chat import Server
from phi_vision.client.text import one_line
from phi_vision.errors import UsageError
from phi_vision.processes import tie_to_parent

_PROBE_TIMEOUT_S = 1.0
_START_TIMEOUT_S = 1800.0  # it may have to download the weights first
_LOG_BYTES = 1 << 16  # read of the log's top, and of its end

_SUMMARY_LINE = re.compile(r"^  listening +https?://\S+:(\d+)/v1$", re.MULTILINE)


@contextmanager
def own_server(
    device: str, *flags: str, note: Callable[[str, str], None] = lambda text, end: None
) -> Iterator[Server]:
    """A `phi-vision serve` on a free port of this machine, for as long as it is needed.

    Args:
        device: as `--device`.
        flags: more of `phi-vision serve`.
        note: is told how the start goes; the text and what ends it, a new line or a return.

    Raises:
        UsageError: it did not start; the message says why.
    """
    command = _command("--device", device, "--port", "0", *flags)
    key = secrets.token_urlsafe()  # others on this machine may not use it
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_API_KEY": key},
            preexec_fn=tie_to_parent,
        )
        try:
            yield Server(f"{_wait_until_ready(process, log, note)}/v1", key)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def announced_port(said: str) -> int | None:
    """The port in what a server said, once its summary is there."""
    line = _SUMMARY_LINE.search(said)
    return None if line is None else int(line[1])


def _command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "phi_vision", "serve", *flags]


def _wait_until_ready(
    process: subprocess.Popen[bytes], log: IO[bytes], note: Callable[[str, str], None]
) -> str:
    """Its URL without a path."""
    started_s = time.monotonic()
    with httpx.Client(trust_env=False, timeout=_PROBE_TIMEOUT_S) as client:
        while (waited_s := time.monotonic() - started_s) < _START_TIMEOUT_S:
            if process.poll() is not None:
                raise UsageError(f"the engine did not start: {one_line(_last_line(log))}")
            # Which port it got stands at the top. Not by `seek`, which would move the writer too.
            top = os.pread(log.fileno(), _LOG_BYTES, 0).decode(errors="replace")
            if port := announced_port(top):
                url = f"http://127.0.0.1:{port}"
                with contextlib.suppress(httpx.HTTPError), client.stream("GET", f"{url}/health") as response:
                    if response.is_success:
                        note(f"engine ready after {waited_s:.0f} s", "\n")
                        return url
            note(f"no server found; starting an engine: {waited_s:.0f} s", "\r")
            time.sleep(1)
    raise UsageError(f"the engine did not start within {_START_TIMEOUT_S:.0f} s")


def _last_line(log: IO[bytes]) -> str:
    end = os.fstat(log.fileno()).st_size
    tail = os.pread(log.fileno(), _LOG_BYTES, max(0, end - _LOG_BYTES))
    said = tail.decode(errors="replace").strip().splitlines()
    return said[-1] if said else "it said nothing"
