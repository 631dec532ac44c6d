"""One of the servers: its process, started again whenever it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phi_vision.client.process import SUMMARY_LINE, serve_command
from phi_vision.client.readiness import STARTING
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.replicas.members import Member
from phi_vision.replicas.shares import Share

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before it is started again
_STEADY_S = 60.0  # a server that has run so long begins with the first pause again
_LINE_BYTES = 1 << 16
_SOME_OUTPUT_BYTES = 1 << 16


@dataclass(frozen=True)
class Tell:
    """Ways to tell the user: `say` of what happens, `show` what a server prints."""

    say: Callable[[str], None]
    show: Callable[[str], None]


class ReplicaProcess:
    """The process of a member.

    Args:
        member: told where it listens.
        share: of the machine.
        flags: of `phi-vision serve`.
        env: more variables for it.
        tell: the user.
    """

    def __init__(
        self, member: Member, share: Share, flags: Sequence[str], env: dict[str, str], tell: Tell
    ) -> None:
        self.member = member
        self._share = share
        self._command = serve_command("--port", "0", *flags, *share.flags)
        self._env = {**os.environ, **env, **share.env}
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._last_line = "it printed nothing"
        self._difference: str | None = None

    async def keep(self) -> None:
        """Run it until told to stop.

        Raises:
            PhiVisionError: it ended before it was ready for the first time; a new start would not help.
        """
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started_s = loop.time()
            code = await self._run()
            if self._stopping.is_set():
                return
            if not self.member.was_ready:
                is_users = code == UsageError.exit_code or self._difference is not None
                kind = UsageError if is_users else PhiVisionError
                reason = self._difference or self._last_line
                raise kind(f"server {self.member.number} did not start: {reason}")
            if loop.time() - started_s >= _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            self._tell.say(
                f"server {self.member.number} ended {_how(code)}; it is started again in {pause_s:.0f} s"
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Tell it to finish its requests and end; the second time, to end."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all its processes at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def hung(self) -> None:
        """It says nothing any more."""
        self._tell.say(f"server {self.member.number} hangs; it is killed")
        self.kill()

    def differs(self, how: str) -> None:
        """It would not answer as the others do. At the first start that is the user's to mend."""
        self._difference = f"it is not like the others ({how}): name a --profile and a --max-model-len"
        self._tell.say(f"server {self.member.number} is not like the others: {how}; it is stopped")
        self._signal(signal.SIGTERM)

    async def _run(self) -> int:
        """From its start to its end; its exit code."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._env,
            start_new_session=True,  # Ctrl-C is for this process to handle
            preexec_fn=self._share.enter,
        )
        if self._stopping.is_set():  # told while it started
            self._signal(signal.SIGTERM)
        printing = asyncio.create_task(self._print(process))
        try:
            code = await process.wait()
        finally:
            self.member.url, self.member.state, self.member.silent_since = None, STARTING, None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it may have left, with memory of the GPU
        await printing
        return code

    async def _print(self, process: asyncio.subprocess.Process) -> None:
        """Its lines, each with its number in front; one says where it listens."""
        assert process.stdout is not None
        rest = b""
        while piece := await process.stdout.read(_SOME_OUTPUT_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line.decode(errors="replace"))
        if rest:
            self._take(rest.decode(errors="replace"))

    def _take(self, line: str) -> None:
        if line.strip():
            self._last_line = one_line(line)
        if self.member.url is None and (found := SUMMARY_LINE.match(line)):
            self.member.url = f"http://127.0.0.1:{found[1]}"
        self._tell.show(f"[{self.member.number}] {line}")

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _how(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
