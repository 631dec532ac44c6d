"""A data set on disk -> questions. Nothing is downloaded; which layout it has shows in what is in it.

    {"image": "a.png", "task": "ocr", "answers": ["GARDEN MARKET"]}
    {"image": ["a.png", "b.png"], "task": "vqa", "question": "Which is older?", "answers": ["The second"]}

are lines of a JSONL file; `layouts` has those of public data sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError
from phi_vision.tasks.presets import PRESETS

from benchmarks.evaluation import jsonl, layouts
from benchmarks.evaluation.layouts import Layout
from benchmarks.evaluation.metrics import METRICS
from benchmarks.evaluation.questions import Question


@dataclass(frozen=True)
class DataSet:
    """What there is to ask.

    Args:
        name: of its file or folder.
        layout: whose form it has.
        questions: at least one.
        size: how many it has in all; `questions` may be some of them.
    """

    name: str
    layout: str
    questions: Sequence[Question]
    size: int


def read(path: Path, pictures: Path | None = None, limit: int | None = None) -> DataSet:
    """The questions of a file, or of the one data set in a folder.

    Args:
        path: .jsonl, .json, or a folder.
        pictures: where they are; None: beside the file, in the folders that the layout has.
        limit: a random sample of so many, the same every time; a larger one holds the smaller.

    Raises:
        UsageError: it is no data set that is known, or a question is not as it should be: names it.
    """
    layout, files = _files(path)
    found: dict[str, Question] = {}
    for file in files:
        questions = (
            jsonl.questions(file, pictures) if layout is None else layouts.questions(layout, file, pictures)
        )
        for where, question in questions:
            try:
                check(question)
                if question.key in found:
                    raise UsageError(f"an earlier question has the id {question.key!r}")
            except UsageError as error:
                raise UsageError(f"{where}: {one_line(str(error))}") from error
            found[question.key] = question
    if not found:
        raise UsageError(f"{one_line(str(path))} has no questions")
    name = path.resolve().stem if path.is_file() else path.resolve().name
    kind = "JSONL" if layout is None else layout.name
    return DataSet(name, kind, _sample(list(found.values()), limit), len(found))


def check(question: Question) -> None:
    """Fail before anything is asked.

    Raises:
        UsageError: it cannot be asked, or an answer could not be judged.
    """
    if question.task not in PRESETS:
        raise UsageError(f"no task {question.task!r}; tasks: {', '.join(PRESETS)}")
    if PRESETS[question.task].prompt is None and not question.text:
        raise UsageError(f"the task {question.task} needs a question")
    if not question.metrics:
        raise UsageError(f"a {question.task} has no metric of its own: name `metrics`")
    for name in question.metrics:
        if name not in METRICS:
            raise UsageError(f"no metric {name!r}; metrics: {', '.join(METRICS)}")
        if fault := METRICS[name].fault(question.answers):
            raise UsageError(f"{name} {fault}")


def _files(path: Path) -> tuple[Layout | None, list[Path]]:
    """The layout, None for JSONL, and the files that make up the data set."""
    if not path.exists():
        raise UsageError(f"cannot read {one_line(str(path))}: there is no such file or folder")
    if not path.is_dir():
        return (None, [path]) if path.suffix == ".jsonl" else (layouts.layout_of(path), [path])
    named: dict[Path, Layout | None] = {file: None for file in sorted(path.glob("*.jsonl"))}
    for file in sorted(path.glob("*.json")):
        if layout := layouts.layout_if_known(file):
            named[file] = layout
    if not named:
        raise UsageError(f"{one_line(str(path))} has no data set: {layouts.KNOWN}")
    kinds = set(named.values())
    if len(named) > 1 and (len(kinds) > 1 or not (kind := next(iter(kinds))) or not kind.has_parts):
        names = ", ".join(file.name for file in named)
        raise UsageError(f"{one_line(str(path))} has several data sets: name one of {one_line(names)}")
    return next(iter(kinds)), list(named)


def _sample(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """So many of them, in their order."""

    def draw(question: Question) -> bytes:
        return hashlib.sha256(question.key.encode("utf-8", "surrogatepass")).digest()

    chosen = {question.key for question in sorted(questions, key=draw)[:limit]}
    return [question for question in questions if question.key in chosen]
