"""The test's side of `stub_engine`: start it, see what reached its engine, hold or script its answers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from tests.support import stub_engine
from tests.support.serving import Server
from tests.support.stub_engine import ScriptedAnswer

MINE, YOURS = "key-of-one", "key-of-another"  # the keys of the fixture `keyed`
QUEUE = 4  # its requests at once


class StubServer(Server):
    """The stub with the demo's tokenizer and config and these flags of `serve`.

    It shows what reached its engine, and can hold its answers back or give scripted ones. `wrapper` is what
    Python runs it with.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        super().__init__(folder / "log.txt", *flags, env=env, program=(*wrapper, *stub_program(folder)))
        self.folder = folder

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What went to the engine so far, and `{"aborted": request_id}` for what was called back."""
        file = self.folder / "requests.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @contextmanager
    def hold(self, prompt: str = "") -> Iterator[None]:
        """No request with these words in its prompt is answered meanwhile."""
        file = self.folder / "hold"
        file.write_text(prompt)
        try:
            yield
        finally:
            file.unlink()

    @contextmanager
    def answers(self, *answers: ScriptedAnswer) -> Iterator[None]:
        """Each request gets the first of `answers` that fits it and is left."""
        file = self.folder / "answers.json"
        written = file.with_suffix(".new")
        written.write_text(
            json.dumps({"id": uuid.uuid4().hex, "answers": [asdict(each) for each in answers]})
        )
        written.rename(file)
        try:
            yield
        finally:
            file.unlink()


@contextmanager
def running_stub(folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[StubServer]:
    """A `StubServer` that is ready to answer."""
    with StubServer(folder, *flags, env=env) as stub:
        stub.wait_until_ready()
        yield stub


def stub_program(folder: Path) -> tuple[str, ...]:
    """What Python runs, in the place of `-m phi_vision serve`."""
    small = ("--max-model-len", "16384")  # other engines take memory at the same time
    return (stub_engine.__file__, str(folder), "--model", "demo", "--device", "cpu", *small)


ROUTES = ("/v1/chat/completions", "/v1/messages", "/v1/completions", "/v1/responses")


def ask(stub: StubServer, path: str, text: Any, **more: Any) -> httpx.Response:
    """An answer of the stub, which is a dozen tokens long."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}]},
        "/v1/messages": {"messages": [{"role": "user", "content": text}], "max_tokens": 4096},
        "/v1/completions": {"prompt": text, "max_tokens": 4096},
        "/v1/responses": {"input": text},
    }
    body = {"model": "phi-3.5-vision-demo", **bodies[path], **more}
    return httpx.post(stub.url + path, json=body)
