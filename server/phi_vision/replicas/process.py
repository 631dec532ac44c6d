"""A program that is started again whenever it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.processes import tie_to_parent

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before it is started again
_STEADY_S = 60.0  # a program that has run so long begins with the first pause again
_FAMILY_ENDS_S = 5.0  # for the processes of one that has ended
_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class Tell:
    """Ways to tell the user: `say` of what happens, `show` what a program prints."""

    say: Callable[[str], None]
    show: Callable[[str], None]


class KeptProcess:
    """The program.

    Args:
        name: for the user.
        command: what to run.
        tell: the user.
        label: in front of each line that it prints.
        env: variables beside this process's.
        enter: in its process before it starts; it ends with this process, which must be told here.
        pass_fds: that it inherits.
        text: what it reads from its stdin.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        tell: Tell,
        *,
        label: str,
        env: Mapping[str, str] | None = None,
        enter: Callable[[], None] = tie_to_parent,
        pass_fds: Sequence[int] = (),
        text: str = "",
    ) -> None:
        self.name = name
        self.life = 0  # how often it has been started
        self.has_worked = False
        self.fault: str | None = None  # the user's to mend, instead of what it said last
        self._command = command
        self._tell = tell
        self._label = label
        self._env = {**os.environ, **(env or {})}
        self._enter = enter
        self._pass_fds = pass_fds
        self._text = text
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._last_line = "it printed nothing"

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.returncode is None

    async def keep(self) -> None:
        """Run it until told to stop.

        Raises:
            PhiVisionError: it ended before it had ever worked; a new start would not help.
        """
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started_s = loop.time()
            code = await self._run()
            if self._stopping.is_set():
                return
            if not self.has_worked:
                is_users = code == UsageError.exit_code or self.fault is not None
                kind = UsageError if is_users else PhiVisionError
                raise kind(f"{self.name} did not start: {self.fault or self._last_line}")
            if loop.time() - started_s >= _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            self._tell.say(f"{self.name} ended {_how(code)}; it is started again in {pause_s:.0f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Tell it to end, and do not start it again."""
        self._stopping.set()
        self.send(number)

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it and all its processes at once."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self) -> int:
        """From its start to its end; its exit code."""
        self.life += 1
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._env,
            start_new_session=True,  # Ctrl-C is for this process to handle
            preexec_fn=self._enter,
            pass_fds=self._pass_fds,
        )
        assert process.stdin is not None
        process.stdin.write(self._text.encode())
        process.stdin.close()
        if self._stopping.is_set():  # told while it started
            self.send(signal.SIGTERM)
        printing = asyncio.create_task(self._print(process))
        code = await process.wait()
        await asyncio.wait((printing,), timeout=_FAMILY_ENDS_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left, with memory of the GPU
        printing.cancel()
        return code

    async def _print(self, process: asyncio.subprocess.Process) -> None:
        """Its lines, each with the label in front."""
        assert process.stdout is not None
        rest = b""
        while piece := await process.stdout.read(_LINE_BYTES):
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
        self._tell.show(f"[{self._label}] {line}")


def _how(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
