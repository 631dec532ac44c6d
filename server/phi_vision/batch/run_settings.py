"""What a run was asked to do, kept with it: whoever goes on with it later does the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from phi_vision.errors import UsageError
from phi_vision.tasks.presets import PRESETS

if TYPE_CHECKING:  # `--help` names the default task, and needs no files
    from phi_vision.batch.inputs import Kind

DEFAULT_TASK = "ocr"


@dataclass(frozen=True)
class Question:
    """What is asked about each picture and page; None where the user has not said."""

    task: str | None = None
    prompt: str | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunSettings:
    """Kept in the queue, as JSON.

    Args:
        kind: of the items.
        question: empty where the items are lines of batch files, which say it themselves.
        base: the folder that keys are relative to: where the run was started first.
        is_listed: whether all that was named is in the queue.
        seconds: for which items were asked, at all starts together.
        num_ended: items that were done or failed, at all starts together.
    """

    kind: Kind
    question: Question
    base: str
    is_listed: bool = False
    seconds: float = 0.0
    num_ended: int = 0

    @classmethod
    def agreed(
        cls, kept: Mapping[str, Any], kind: Kind | None, question: Question, base: str, folder: str
    ) -> Self:
        """Those of the run in a folder or, where there is none, those of a new one.

        Args:
            kept: by the run; empty for a new one.
            kind: of the items that are named now; None where none are.
            question: that is asked now.
            base: see above; of a new run.
            folder: for messages.

        Raises:
            UsageError: the run was asked to do something else, or nothing is named for a new one.
        """
        if kept:
            settings = cls(**{**kept, "question": Question(**kept["question"])})
            settings._check(kind, question, folder)
            return settings
        if kind is None:
            raise UsageError(f"{folder} holds no run: name an INPUT")
        if kind == "lines":
            if flag := next(
                (f"--{name}" for name, value in asdict(question).items() if value is not None), ""
            ):
                raise UsageError(f"{flag} is not for OpenAI batch files: each line says what is asked")
            return cls(kind, question, base)
        task = question.task or DEFAULT_TASK
        if PRESETS[task].prompt is None and not question.prompt:
            raise UsageError(f"--task {task} needs a question: add --prompt")
        return cls(kind, Question(task, question.prompt, question.schema), base)

    def _check(self, kind: Kind | None, question: Question, folder: str) -> None:
        if kind not in (None, self.kind):
            has = "OpenAI batch files" if self.kind == "lines" else "pictures and documents"
            raise UsageError(f"{folder} holds a run of {has}; name another folder")
        for name, value in asdict(question).items():
            if value is not None and value != asdict(self.question)[name]:
                raise UsageError(f"{folder} holds a run with another --{name}; name another folder")
        if kind is None and not self.is_listed:
            raise UsageError(f"{folder} holds a run that has not seen all of its inputs: name them again")

    @property
    def unit(self) -> str:
        """What an item is called, in the plural."""
        return "pages" if self.kind == "files" else "requests"

    def as_json(self) -> dict[str, Any]:
        """For the queue."""
        return asdict(self)
