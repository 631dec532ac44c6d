"""Start the real server, as a user would, and stop it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import openai
import psutil
from phi_vision.client.process import OnWait, ServerProcess, ServerStartError

# The system may leave a client of a busy machine without a processor for half a minute, also between
# connecting and sending. That is not what these tests are about.
PATIENT_FLAGS = ("--client-timeout-s", "900", "--decode-timeout-s", "600")
PATIENT_ENV = {
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "900",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",  # the tests and the API process work at the same time
}
PATIENCE_S = 900  # for an answer or a start, which a busy machine may make slow; no test waits for its end


SERVE = ("-m", "phi_vision", "serve")  # what Python runs


def cores() -> dict[str, str]:
    """Cores of its own for the engines of each process of pytest-xdist: vLLM would take the same for all."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count == 1:
        return {}
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    here = sorted(os.sched_getaffinity(0))
    mine = here[number::count] or here
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, mine))}


class Server(ServerProcess):
    """A `phi-vision serve` on a free port, with these flags; patient with clients on a busy machine.

    Leaving `with` also checks that it stops cleanly, once it has said where it listens.
    """

    def __init__(
        self,
        log_path: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = SERVE,
    ) -> None:
        own = ("--port", "0", "--files-folder", str(log_path.parent / "files"))
        command = [sys.executable, *program, *own, *PATIENT_FLAGS, *flags]
        super().__init__(command, log_path, env={**PATIENT_ENV, **cores(), **(env or {})})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self.process.poll() is None and self.announced:
                self._check_clean_stop()
        finally:
            super().__exit__(kind, error, trace)

    def client(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=api_key, max_retries=0, timeout=PATIENCE_S)

    def wait_until_ready(
        self, timeout_s: float = PATIENCE_S, on_wait: OnWait = lambda waited_s, state: None
    ) -> None:
        try:
            super().wait_until_ready(timeout_s, on_wait)
        except ServerStartError as error:
            error.add_note(self.log[-4000:])
            raise

    def _check_clean_stop(self) -> None:
        """SIGTERM ends every server of the suite with exit code 0, and leaves no process and no file."""
        first = psutil.Process(self.process.pid)
        family = first.children(recursive=True)
        locks = [Path(file.path) for file in first.open_files() if file.path.endswith("/lock")]
        assert self.stop(PATIENCE_S) == 0, self.log[-4000:]
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
        assert alive == [], self.log[-4000:]
        assert locks and not [lock for lock in locks if lock.parent.exists()]


def starting_server(
    log_path: Path, *flags: str, env: Mapping[str, str] | None = None, program: Sequence[str] = SERVE
) -> Server:
    """`phi-vision serve` with these flags, not yet ready; `program` is what Python runs."""
    return Server(log_path, *flags, env=env, program=program)


@contextmanager
def running_server(
    log_path: Path, *flags: str, env: Mapping[str, str] | None = None, program: Sequence[str] = SERVE
) -> Iterator[Server]:
    """The same, ready to answer."""
    with Server(log_path, *flags, env=env, program=program) as server:
        server.wait_until_ready()
        yield server


def children(process_id: int, text: str, *, recursive: bool = False) -> list[psutil.Process]:
    """The processes below this one with `text` in their command line, without those that end meanwhile."""
    found = []
    for process in psutil.Process(process_id).children(recursive):
        with contextlib.suppress(psutil.NoSuchProcess):
            if text in " ".join(process.cmdline()):
                found.append(process)
    return found


def eventually(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a state; the time is for those that never come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
