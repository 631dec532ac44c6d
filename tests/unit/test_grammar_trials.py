"""Grammars are compiled where they may die: what passes, what does not, and that the next one is served."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import psutil
import pytest
import xgrammar
from phi_vision.serving.grammars.trials import Compiler, GrammarTrials, Syntax, TrialLimits

LETTERS = [chr(code) for code in range(32, 127)]
RUNAWAY = "a?" * 5000  # minutes to compile
HUNGRY = ".?" * 8000  # gigabytes
SLOW_MASKS = 'root ::= s "z"\ns ::= ' + " | ".join(f"x{i} s" for i in range(2000)) + ' | "q"\n'
SLOW_MASKS += "\n".join(f'x{i} ::= [^{chr(0x100 + i)}]+ "{i}"' for i in range(2000))


def compiler() -> Compiler:
    info = xgrammar.TokenizerInfo([*LETTERS, "\n", "</s>"], stop_token_ids=[len(LETTERS) + 1])
    return Compiler(info.serialize_json())


LOW = TrialLimits(compile_cpu_s=2.0, walk_cpu_s=0.1, memory_bytes=64 << 20, compiled_bytes=1_000_000)


class Loop:
    """Trials and the loop that they run in."""

    def __init__(self, runner: asyncio.Runner, limits: TrialLimits | None = None) -> None:
        self.trials = GrammarTrials(compiler, limits)
        self._runner = runner

    def run(self, use: Callable[[GrammarTrials], Coroutine[Any, Any, None]]) -> None:
        self._runner.run(use(self.trials))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def usual(runner: asyncio.Runner) -> Iterator[Loop]:
    loop = Loop(runner)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PHI_VISION_SECRET", "a key")
        yield loop
    end(loop)


@pytest.fixture(scope="module")
def low(runner: asyncio.Runner) -> Iterator[Loop]:
    loop = Loop(runner, LOW)
    yield loop
    end(loop)


def end(loop: Loop) -> None:
    assert loop.trials._process is not None and loop.trials._control is not None
    loop.trials._control.close()
    loop.trials._process.wait()


VERDICTS: list[tuple[Syntax, str, str | None]] = [
    ("json", '{"type": "object", "properties": {"a": {"type": "integer"}}}', None),
    ("json", '{"properties": {"kids": {"items": {"$ref": "#"}}}}', None),
    ("regex", r"\d{4}-\d{2}-\d{2}", None),
    ("ebnf", 'root ::= root "a" | "b"', None),
    ("lark", "start: /[0-9]+/", None),
    ("structural_tag", '{"type": "structural_tag", "format": {"type": "regex", "pattern": "a"}}', None),
    (
        "structural_tag",
        json.dumps(
            {"triggers": ["<f"], "structures": [{"begin": "<f>", "schema": {"type": "null"}, "end": "</f>"}]}
        ),
        None,
    ),
    ("regex", "\\", "Escape sequence is not finished"),
    ("json", '{"type": "string", "pattern": "\\\\"}', "Escape sequence is not finished"),
    ("ebnf", "root ::= root", "no text may follow"),
    ("ebnf", 'root ::= "a" x\nx ::= x "b"', "no text may follow"),
    ("json", '{"$ref": "#"}', "no text may follow"),
    ("json", '{"$ref": "#/$defs/none"}', "Cannot find field"),
    ("ebnf", 'start ::= "a"', "root"),
    ("structural_tag", "[]", ""),
]


def test_verdicts(usual: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        for syntax, text, expected in VERDICTS:
            verdict = await trials.verdict(syntax, text)
            assert (verdict is None) == (expected is None), (text, verdict)
            assert expected is None or expected in str(verdict), (text, verdict)
            assert "/project/cpp" not in str(verdict)

    usual.run(use)


def test_json_is_checked_against_a_schema(usual: Loop) -> None:
    schema = {
        "type": "object",
        "properties": {"names": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/name"}}},
        "$defs": {"name": {"type": "string", "pattern": "^[A-Z]"}},
    }

    async def use(trials: GrammarTrials) -> None:
        assert await trials.mismatch(schema, '{"names": ["Ada", "Bob"]}') is None
        assert "$.names" in str(await trials.mismatch(schema, '{"names": ["Ada"]}'))
        assert "$.names[1]" in str(await trials.mismatch(schema, '{"names": ["Ada", "bob"]}'))
        assert "Expecting" in str(await trials.mismatch(schema, '{"names": '))
        # Nothing is fetched.
        assert "Unresolvable" in str(await trials.mismatch({"$ref": "http://127.0.0.1:9/"}, "{}"))

    usual.run(use)


def test_a_pattern_that_takes_for_ever_ends(low: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        schema = {"type": "string", "pattern": "^(a+)+$"}
        assert "takes more than" in str(await trials.mismatch(schema, json.dumps("a" * 100 + "b")))
        assert await trials.mismatch(schema, '"aaa"') is None

    low.run(use)


COSTLY: dict[str, tuple[Syntax, str]] = {
    "time": ("regex", RUNAWAY),
    "memory": ("regex", HUNGRY),
    "masks": ("ebnf", SLOW_MASKS),
    "size": ("regex", "ab" * 20_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_takes_too_much_costs_only_itself(low: Loop, name: str) -> None:
    async def use(trials: GrammarTrials) -> None:
        await trials.verdict("regex", "a")
        process = trials._process
        assert process is not None
        verdict = await trials.verdict(*COSTLY[name])
        assert verdict is not None and ("compiled it takes more" in verdict) == (name == "size")
        assert await trials.verdict("regex", f"a{name}") is None
        assert trials._process is process and process.poll() is None

    low.run(use)


def test_no_secrets_of_the_server(usual: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        await trials.verdict("regex", "a")
        assert trials._process is not None
        environment = psutil.Process(trials._process.pid).environ()
        assert "PATH" in environment and "PHI_VISION_SECRET" not in environment

    usual.run(use)


def test_one_trial_for_all_who_ask_and_for_later(usual: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        asked = []

        async def exchange(spec: bytes, real: Any = trials._exchange) -> bytes:
            asked.append(json.loads(spec)["text"])
            return await real(spec)

        trials._exchange = exchange  # type: ignore[method-assign]
        assert await asyncio.gather(*[trials.verdict("regex", "once") for _ in range(9)]) == [None] * 9
        await trials.verdict("regex", "once")
        await trials.verdict("ebnf", "once")
        assert asked == ["once", "once"]

    usual.run(use)


def test_who_leaves_does_not_end_the_trial_of_others(usual: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        first = asyncio.create_task(trials.verdict("regex", "abc"))
        second = asyncio.create_task(trials.verdict("regex", "abc"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is None

    usual.run(use)


def test_the_process_starts_again(usual: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        assert await trials.verdict("regex", "a") is None
        assert trials._process is not None
        trials._process.kill()
        trials._process.wait()
        assert await trials.verdict("regex", "b") is None

    usual.run(use)


def test_trials_end_with_the_server(usual: Loop) -> None:
    async def use(trials: GrammarTrials) -> None:
        assert await trials.verdict("regex", "a") is None
        assert trials._process is not None and trials._control is not None
        running = asyncio.create_task(trials.verdict("regex", RUNAWAY))
        parent = psutil.Process(trials._process.pid)
        while not (children := parent.children()):
            await asyncio.sleep(0.01)
        trials._control.close()  # as when the server is killed
        assert await asyncio.to_thread(trials._process.wait) == -signal.SIGKILL
        while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
            await asyncio.sleep(0.01)
        (outcome,) = await asyncio.gather(running, return_exceptions=True)
        assert outcome is not None

    usual.run(use)
