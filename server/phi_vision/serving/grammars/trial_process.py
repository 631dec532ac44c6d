"""The process in which clients' grammars are compiled: what `trials` starts and talks to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import sys
from typing import Any

from phi_vision.serving.grammars.trials import BEGUN, LENGTH_BYTES, WAIT_S, Compiler, Syntax, TrialLimits

WALKS, WALK_TOKENS = 2, 64

_PLACE = re.compile(r"^(\[[\d:]+\] )?\S+\.(cc|h):\d+: ")  # where in its source the compiler complains


def serve_trials(control: socket.socket) -> None:
    """The loop of the trial process, until the server closes the socket or ends; its trials end with it."""
    length = int.from_bytes(_receive_exactly(control, LENGTH_BYTES), "big")
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
    connection.sendall(BEGUN)
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
