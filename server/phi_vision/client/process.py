"""Start a server, wait until it takes requests, stop it: for `predict`, the benchmarks and the tests."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from phi_vision.client.exchange import Endpoint
from phi_vision.client.readiness import STARTING, in_words
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.processes import tie_to_parent

OnWait = Callable[[float, str], None]

START_TIMEOUT_S = 1800.0  # without a step forward, such as a percent of the weights
_STOP_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 5.0
_PROBE_INTERVAL_S = 0.5

SUMMARY_LINE = re.compile(r"^  listening +https?://\S+:(\d+)/v1$", re.MULTILINE)


class ServerStartError(UsageError):
    """The server ended before it was ready, or was not ready in time."""


class ServerProcess:
    """A server in a process group of its own that ends with this process.

    It starts at once; leaving `with` stops it. Create it in the main thread: the system ends it with the
    thread that started it.

    Args:
        command: what to run.
        log_path: where its stdout and stderr go.
        env: added to this process's environment.
        port: where it will listen; None where it says so itself, as `phi-vision serve` does.
        ready_path: answers 200 once the server takes requests.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        ready_path: str = "/readyz",
    ) -> None:
        self.log_path = log_path
        self._port = port
        self._ready_path = ready_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=tie_to_parent,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def announced(self) -> bool:
        """Whether its port is known."""
        return self._announced_port() is not None

    @cached_property
    def port(self) -> int:
        """Where it listens.

        Raises:
            ServerStartError: it has not said so yet.
        """
        port = self._announced_port()
        if port is None:
            raise ServerStartError("the server has not said where it listens")
        return port

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """As OpenAI's clients take it."""
        return f"{self.url}/v1"

    def wait_until_ready(
        self, timeout_s: float = START_TIMEOUT_S, on_wait: OnWait = lambda waited_s, state: None
    ) -> None:
        """Return once `ready_path` answers 200.

        Args:
            timeout_s: when to give up on a state that stays as it is.
            on_wait: called about twice a second with the seconds waited so far and what the server does.

        Raises:
            ServerStartError: the message ends with the last line of the log.
        """
        started_s = changed_s = time.monotonic()
        last_state: str | None = None
        with httpx.Client(trust_env=False, timeout=_PROBE_TIMEOUT_S) as client:
            while (state := self._state(client)) is not None:
                now_s = time.monotonic()
                if state != last_state:
                    last_state, changed_s = state, now_s
                if self.process.poll() is not None:
                    raise ServerStartError(f"the server did not start: {self._last_line()}")
                if now_s - changed_s >= timeout_s:
                    raise ServerStartError(
                        f"the server was not ready after {now_s - started_s:.0f} s ({state}): "
                        f"{self._last_line()}"
                    )
                on_wait(now_s - started_s, state)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_PROBE_INTERVAL_S)

    def check_running(self) -> None:
        """Raise once it has ended by itself.

        Raises:
            PhiVisionError: the message ends with the last line of the log.
        """
        if self.process.poll() is not None:
            raise PhiVisionError(f"the server has ended: {self._last_line()}")

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """Send SIGTERM, and SIGKILL to the whole process group if that does not end it in time.

        Returns:
            Its exit code; minus the signal's number where a signal ended it.
        """
        if self.process.poll() is None:
            self.process.terminate()
            try:
                return self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
            finally:  # also on a second Ctrl-C
                if self.process.poll() is None:
                    os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def _announced_port(self) -> int | None:
        if self._port is None and (line := SUMMARY_LINE.search(self.log)):
            self._port = int(line[1])
        return self._port

    def _state(self, client: httpx.Client) -> str | None:
        """What it does before it is ready, in a few words; None once it is."""
        if not self.announced:
            return STARTING
        try:
            answer = client.get(self.url + self._ready_path)
            return None if answer.status_code == 200 else in_words(answer.json())
        except (httpx.HTTPError, ValueError):
            return STARTING

    def _last_line(self) -> str:
        lines = self.log.strip().splitlines()
        return one_line(lines[-1]) if lines else "it printed nothing"


def serve_command(*flags: str, python: str = sys.executable) -> list[str]:
    """`phi-vision serve`, with this Python or another."""
    return [python, "-m", "phi_vision", "serve", *flags]


@contextmanager
def local_process(
    device: str,
    *flags: str,
    on_wait: OnWait = lambda waited_s, state: None,
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[tuple[ServerProcess, Endpoint]]:
    """A `phi-vision serve` on a free port of this machine, with an API key that only the caller has.

    Args:
        device: as `--device`.
        flags: more of `phi-vision serve`.
        on_wait: see `ServerProcess.wait_until_ready`.
        timeout_s: likewise.

    Raises:
        ServerStartError: it did not start; the message says why.
    """
    key = secrets.token_urlsafe()
    command = serve_command("--device", device, "--port", "0", *flags)
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(command, Path(folder, "log.txt"), env={"VLLM_API_KEY": key}) as server,
    ):
        server.wait_until_ready(timeout_s=timeout_s, on_wait=on_wait)
        yield server, Endpoint(server.base_url, key)


@contextmanager
def local_server(device: str, *flags: str) -> Iterator[Endpoint]:
    """The same, for those who only ask it."""
    with local_process(device, *flags) as (_, endpoint):
        yield endpoint
