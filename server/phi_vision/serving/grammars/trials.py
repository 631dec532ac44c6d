"""Compile clients' grammars in processes that may die, before the engine compiles them.

A regex of ten characters can keep a grammar compiler busy for minutes, and the compiler is C++. So each
spec is first compiled, and followed for some tokens, in a process of its own, with limits on memory and
processor time and without the server's secrets. What passes there costs the engine no more; what fails
costs only its own request.

One process (`trial_process`) imports the compiler, which takes seconds, and is forked for each trial. For
each trial the server sends it one end of a socket pair. The server writes a line of JSON to the other end,
`{"kind": ..., "text": ...}`, and reads a byte when the trial begins, then `{}` or `{"refused": reason}`. When
a trial dies, its end closes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

WAIT_S = 120  # for a verdict on a machine that is busy with other things
AT_ONCE = 2
KEPT_VERDICTS = 1024

LENGTH_BYTES = 8  # of the settings, which the process reads first
BEGUN = b"."
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")

logger = logging.getLogger("vllm.phi_vision.trials")

Syntax = Literal["json", "regex", "ebnf", "lark", "structural_tag"]


class TrialFailed(Exception):
    """A spec could not be tried: the machine is out of processes, memory or time."""


@dataclass(frozen=True)
class TrialLimits:
    """What one trial may use. It is processor time, so that a busy machine accepts what an idle one does.

    Args:
        compile_cpu_s: to compile the spec.
        walk_cpu_s: to follow it. The engine fills a token mask between its steps; this allows 15 ms a mask.
        memory_bytes: address space beyond that of the forked process.
        compiled_bytes: size of the result, which the engine keeps while a request uses it.
    """

    compile_cpu_s: float = 10.0
    walk_cpu_s: float = 2.0
    memory_bytes: int = 512 << 20
    compiled_bytes: int = 32 << 20


@dataclass(frozen=True)
class Compiler:
    """How the engine compiles.

    Args:
        tokenizer_info: xgrammar's, as JSON.
        any_whitespace: whether JSON may be written with spaces and line ends.
    """

    tokenizer_info: str
    any_whitespace: bool = True


class GrammarTrials:
    """Tries specs, and remembers the verdicts on the last `KEPT_VERDICTS` of them."""

    def __init__(self, compiler: Callable[[], Compiler], limits: TrialLimits | None = None) -> None:
        self._compiler = compiler  # called at the first trial, in a thread
        self._limits = limits or TrialLimits()
        self._verdicts: OrderedDict[tuple[Syntax, str], asyncio.Task[str | None]] = OrderedDict()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._starting = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def verdict(self, syntax: Syntax, text: str) -> str | None:
        """Why this spec is refused; None if it is accepted.

        Raises:
            TrialFailed: it could not be tried.
        """
        key = syntax, text
        task = self._verdicts.get(key)
        if task is None:
            task = self._verdicts[key] = asyncio.create_task(self._try_spec(syntax, text))
            while len(self._verdicts) > KEPT_VERDICTS:
                self._verdicts.popitem(last=False)
        self._verdicts.move_to_end(key)
        try:
            return await asyncio.shield(task)  # other requests may wait for it too
        except TrialFailed:
            if self._verdicts.get(key) is task:
                del self._verdicts[key]
            raise

    async def mismatch(self, schema: Any, text: str) -> str | None:
        """Where JSON text does not match a schema, in a process of its own: its patterns may take for ever.

        Raises:
            TrialFailed: it could not be checked.
        """
        return await self._try_spec("instance", json.dumps({"schema": schema, "text": text}))

    async def _try_spec(self, syntax: Syntax | Literal["instance"], text: str) -> str | None:
        try:
            async with self._slots, asyncio.timeout(WAIT_S):
                await self._ensure_started()
                answer = await self._exchange(json.dumps({"kind": syntax, "text": text}).encode())
        except (OSError, TimeoutError) as error:
            raise TrialFailed(str(error) or type(error).__name__) from error
        if not answer:
            raise TrialFailed("the trial did not begin")
        if answer == BEGUN:
            # The spec itself is not logged: it is the client's.
            logger.warning("a grammar compiler ran out of time or memory, or crashed")
            limits = self._limits
            allowed = f"{limits.compile_cpu_s:g} s or {limits.memory_bytes >> 20} MiB"
            return f"compiling or following it takes more than {allowed}, or crashes"
        refused: str | None = json.loads(answer[len(BEGUN) :]).get("refused")
        return refused

    async def _exchange(self, spec: bytes) -> bytes:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [BEGUN], [theirs.fileno()])
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            writer.write(spec)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()

    async def _ensure_started(self) -> None:
        async with self._starting:
            if self._process is None or self._process.poll() is not None:
                await asyncio.to_thread(self._start)

    def _start(self) -> None:
        setup = json.dumps([asdict(self._compiler()), asdict(self._limits)]).encode()
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "phi_vision.serving.grammars.trial_process"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C is for the server to handle
            )
        self._control.sendall(len(setup).to_bytes(LENGTH_BYTES, "big") + setup)
