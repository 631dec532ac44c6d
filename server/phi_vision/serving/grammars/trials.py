"""Compile clients' grammars in processes that may die, before the engine compiles them.

A regex of ten characters can keep a grammar compiler busy for minutes, and the compiler is C++. So each
spec is first compiled, and followed for some tokens, in a process of its own, with limits on memory and
processor time and without the server's secrets. What passes there costs the engine no more; what fails
costs only its own request.

One process (`serve_trials`) imports the compiler, which takes seconds, and is forked for each trial. For each
trial the server sends it one end of a socket pair. The server writes a line of JSON to the other end,
`{"kind": ..., "text": ...}`, and reads a byte when the trial begins, then `{}` or `{"refused": reason}`. When
a trial dies, its end closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

WALKS, WALK_TOKENS = 2, 64
WAIT_S = 120  # for a verdict on a machine that is busy with other things
AT_ONCE = 2
KEPT_VERDICTS = 1024

_LENGTH_BYTES = 8
_BEGUN = b"."
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")
_PLACE = re.compile(r"^(\[[\d:]+\] )?\S+\.(cc|h):\d+: ")  # where in its source the compiler complains

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
        if answer == _BEGUN:
            # The spec itself is not logged: it is the client's.
            logger.warning("a grammar compiler ran out of time or memory, or crashed")
            limits = self._limits
            allowed = f"{limits.compile_cpu_s:g} s or {limits.memory_bytes >> 20} MiB"
            return f"compiling or following it takes more than {allowed}, or crashes"
        refused: str | None = json.loads(answer[len(_BEGUN) :]).get("refused")
        return refused

    async def _exchange(self, spec: bytes) -> bytes:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [_BEGUN], [theirs.fileno()])
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
                [sys.executable, "-P", "-m", "phi_vision.serving.grammars.trials"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C is for the server to handle
            )
        self._control.sendall(len(setup).to_bytes(_LENGTH_BYTES, "big") + setup)


def serve_trials(control: socket.socket) -> None:
    """The loop of the trial process, until the server closes the socket or ends; its trials end with it."""
    length = int.from_bytes(_receive_exactly(control, _LENGTH_BYTES), "big")
    settings = json.loads(_receive_exactly(control, length))
    compiler, limits = Compiler(**settings[0]), TrialLimits(**settings[1])
    import jsonschema  # noqa: F401  # for `_check_instance`, in each trial
    import xgrammar

    tokenizer_info = xgrammar.TokenizerInfo.deserialize_json(compiler.tokenizer_info)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no trial is waited for
    while descriptors := socket.recv_fds(control, 1, 1)[1]:
        # Where there are too many processes, the trial does not begin.
        with socket.socket(fileno=descriptors[0]) as connection, contextlib.suppress(OSError):
            if os.fork() == 0:
                control.close()
                with contextlib.suppress(Exception):
                    _try(connection, limits, tokenizer_info, compiler.any_whitespace)
                os._exit(0)
    os.killpg(0, signal.SIGKILL)


def _receive_exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += control.recv(size - len(data)) or sys.exit(0)
    return data


def _try(connection: socket.socket, limits: TrialLimits, tokenizer_info: Any, any_whitespace: bool) -> None:
    os.nice(10)  # the server goes first
    signal.alarm(2 * WAIT_S)  # by then the server no longer waits
    _limit_memory(limits.memory_bytes)
    connection.sendall(_BEGUN)
    with connection.makefile("rb") as stream:
        spec = json.load(stream)
    signal.setitimer(signal.ITIMER_PROF, limits.compile_cpu_s)
    try:
        if spec["kind"] == "instance":
            _check_instance(**json.loads(spec["text"]))
        else:
            compiled = _compiled(spec["kind"], spec["text"], tokenizer_info, any_whitespace)
            if compiled.memory_size_bytes > limits.compiled_bytes:
                raise ValueError(f"compiled it takes more than {limits.compiled_bytes >> 20} MiB")
            signal.setitimer(signal.ITIMER_PROF, limits.walk_cpu_s)
            for seed in range(WALKS):
                _walk(compiled, tokenizer_info.vocab_size, seed)
    except Exception as error:  # whatever the compiler says of it
        answer = {"refused": _PLACE.sub("", str(error)).strip()[:500] or type(error).__name__}
    else:
        answer = {}
    connection.sendall(json.dumps(answer).encode())


def _limit_memory(more_bytes: int) -> None:
    """Limit the address space from here on; macOS has no such limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError), open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _compiled(syntax: Syntax, text: str, tokenizer_info: Any, any_whitespace: bool) -> Any:
    """Compile as vLLM's `XgrammarBackend.compile_grammar` does, on one thread."""
    import xgrammar

    compiler = xgrammar.GrammarCompiler(tokenizer_info, max_threads=1, cache_enabled=False)
    match syntax:
        case "json":
            separators = None if any_whitespace else (",", ":")
            return compiler.compile_json_schema(text, any_whitespace=any_whitespace, separators=separators)
        case "regex":
            return compiler.compile_regex(text)
        case "ebnf":
            return compiler.compile_grammar(text)
        case "lark":
            return compiler.compile_lark(text)
        case "structural_tag":
            tag = json.loads(text)
            if "structures" not in tag:
                return compiler.compile_structural_tag(text)
            items = [
                xgrammar.StructuralTagItem(
                    begin=item["begin"], schema=json.dumps(item["schema"]), end=item["end"]
                )
                for item in tag["structures"]
            ]
            return compiler.compile_structural_tag(items, tag["triggers"])


def _check_instance(schema: Any, text: str) -> None:
    """Check JSON text against a schema, which may refer to itself alone.

    Raises:
        ValueError: it does not match.
    """
    import jsonschema
    import referencing

    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    errors = validator(schema, registry=referencing.Registry()).iter_errors(json.loads(text))
    if (error := jsonschema.exceptions.best_match(errors)) is not None:
        raise ValueError(f"{error.json_path}: {error.message}")


def _walk(compiled: Any, vocab_size: int, seed: int) -> None:
    """Follow the grammar for some random tokens, as a model might.

    Raises:
        ValueError: at some point no token may follow, as where a rule needs itself.
    """
    import random

    import numpy as np
    import xgrammar

    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, vocab_size)
    choose = random.Random(seed).choice
    for _ in range(WALK_TOKENS):
        matcher.fill_next_token_bitmask(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")[:vocab_size])
        if not len(allowed):
            raise ValueError("there is a point at which no text may follow")
        matcher.accept_token(int(choose(allowed)))
        if matcher.is_terminated():
            return


if __name__ == "__main__":
    serve_trials(socket.socket(fileno=0))
