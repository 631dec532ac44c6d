"""The answers of one server to a data set, in a folder that a run goes on in.

`run.sqlite` is the queue of `batch`. What it holds was asked of one server, with these questions; anything
else is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.queue import Queue
from phi_vision.batch.work import Item
from phi_vision.client.text import one_line
from phi_vision.documents.answers import ENDS
from phi_vision.errors import UsageError
from phi_vision.tasks.presets import task_of

from benchmarks.evaluation.asking import ask_all
from benchmarks.evaluation.questions import Question
from benchmarks.evaluation.servers import Asked


@dataclass(frozen=True)
class Answers:
    """What a server answered.

    Args:
        server: its name for people.
        prompts: `presets`, or `in words` where it has none.
        plan: what ours said of its precisions, see `GET /v1/plan`.
        found: by the question's key: `answer`, `end`, `model`, `usage`, `seconds`.
        failed: likewise: `message`, `cause`.
    """

    server: str
    prompts: str
    plan: Mapping[str, Any] | None
    found: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, Mapping[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        """`answered`, `failed`, and of the answers those that did not end by themselves, by why."""
        ends = [ENDS.get(answer["end"] or "stop", "failed") for answer in self.found.values()]
        return {
            "answered": len(self.found),
            "failed": len(self.failed),
            "truncated": ends.count("truncated"),
            "repetition": ends.count("repetition"),
            "empty": sum(not answer["answer"].strip() for answer in self.found.values()),
        }

    @property
    def models(self) -> list[str]:
        """That answered, without their tasks; of one server there should be one."""
        names = {answer["model"] for answer in self.found.values()}
        return sorted({name.rpartition(":")[0] if task_of(name) else name for name in names})

    def as_json(self) -> dict[str, Any]:
        """For `results.json`."""
        return {**asdict(self), "models": self.models, "counts": self.counts}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Answers:
        """The same, read back."""
        return cls(*(kept[name] for name in ("server", "prompts", "plan", "found", "failed")))


def collect(folder: Path, questions: Sequence[Question], asked: Asked, limit: ConcurrencyLimit) -> Answers:
    """Ask what has no answer in the folder yet, and what failed; all answers.

    Raises:
        UsageError: the folder holds answers of another server or to other questions.
        PhiVisionError: the run cannot go on; what is answered is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {one_line(str(folder))}: {error.strerror}") from error
    with Queue(folder / "run.sqlite") as queue:
        _check_server(queue, asked, folder)
        queue.add(Item(question.key, question.request) for question in questions)
        _check_questions(queue, questions, folder)
        queue.retry_failed()
        if queue.counts()["waiting"]:
            _ask(queue, folder, asked, limit)
        wanted = {question.key for question in questions}
        records = [record for record in queue.records() if record.item.key in wanted]
        kept = queue.settings
    return Answers(
        asked.name,
        kept["prompts"],
        kept["plan"],
        {record.item.key: record.result for record in records if record.result is not None},
        {record.item.key: record.error for record in records if record.error is not None},
    )


def _ask(queue: Queue, folder: Path, asked: Asked, limit: ConcurrencyLimit) -> None:
    with asked.running() as found:
        (endpoint,) = found.endpoints
        asyncio.run(
            ask_all(queue, endpoint, folder / "fetched", own=found.own, model=asked.model, limit=limit)
        )


def _check_server(queue: Queue, asked: Asked, folder: Path) -> None:
    if not queue.settings:
        queue.set_settings({"server": asked.name, "prompts": "unknown", "plan": None})
    elif queue.settings.get("server") != asked.name:
        known = one_line(str(queue.settings.get("server", "a run of batch")))
        raise UsageError(f"{one_line(str(folder))} holds answers of {known}; name another folder with --out")


def _check_questions(queue: Queue, questions: Sequence[Question], folder: Path) -> None:
    """Answers to a question that has changed since must not be judged by the new one."""
    requests = {question.key: json.loads(json.dumps(question.request)) for question in questions}
    for record in queue.records("done"):
        now = requests.get(record.item.key)
        if now is not None and now != record.item.request:
            raise UsageError(
                f"{one_line(str(folder))} holds an answer to another question named "
                f"{one_line(record.item.key)!r}; name another folder with --out"
            )
