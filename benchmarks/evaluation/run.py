"""An evaluation: questions asked and judged; `results.json`, `report.html` and a table are made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.client.output import write_whole
from phi_vision.client.text import one_line
from phi_vision.errors import UsageError

from benchmarks.evaluation import page, tables
from benchmarks.evaluation.answers import Answers, collect
from benchmarks.evaluation.datasets import DataSet
from benchmarks.evaluation.paired import compare
from benchmarks.evaluation.questions import Question
from benchmarks.evaluation.scores import CONFIDENCE, RESAMPLES, Judged, judge, scores
from benchmarks.evaluation.servers import Asked
from benchmarks.harness.machine import describe_machine, git_state, installed_versions, now

SCHEMA = 1  # of results.json; raised when a key changes its meaning


def evaluate(
    data: DataSet, out: Path, asked: Asked, against: Asked | Path | None, limit: ConcurrencyLimit
) -> int:
    """Ask, judge, and write `out/results.json` and `out/report.html`.

    Args:
        data: the questions.
        out: a folder; a run that it holds goes on.
        asked: the server.
        against: another one, or the folder of an evaluation of another one.
        limit: how many questions at a time.

    Returns:
        The exit code: 1 where questions failed.

    Raises:
        UsageError: anything that the user can mend, in one line.
        PhiVisionError: the run cannot go on; what is answered is kept.
    """
    others = kept_answers(against, data.questions) if isinstance(against, Path) else None
    answers = [collect(out, data.questions, asked, limit)]
    if isinstance(against, Asked):
        others = collect(out / "against", data.questions, against, limit)
    if others is not None:
        answers.append(others)
    judged = [judged_answers(data.questions, each) for each in answers]
    result = result_of(data, answers, judged)
    write_whole(out / "results.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_whole(out / "report.html", page.render(result, judged))
    print(tables.text(result))
    print(f"\n{out / 'report.html'} shows the worst answers; {out / 'results.json'} has all")
    return 1 if any(each.failed for each in answers) else 0


def judged_answers(questions: Sequence[Question], answers: Answers) -> list[Judged]:
    """Those questions that have an answer, with what it is worth."""
    return [
        judge(question, answers.found[question.key]["answer"])
        for question in questions
        if question.key in answers.found
    ]


def result_of(
    data: DataSet, answers: Sequence[Answers], judged: Sequence[Sequence[Judged]]
) -> dict[str, Any]:
    """All that is known, JSON: enough to compute everything anew."""
    return {
        "schema": SCHEMA,
        "written": now(),
        "machine": describe_machine(),
        "versions": installed_versions(),
        "git": git_state(),
        "data": {
            "name": data.name,
            "layout": data.layout,
            "questions": len(data.questions),
            "of": data.size,
            "pictures": len({question.images for question in data.questions}),
        },
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "servers": [
            {**each.as_json(), "scores": [asdict(score) for score in scores(group)]}
            for each, group in zip(answers, judged, strict=True)
        ],
        "paired": [asdict(row) for row in compare(*judged)] if len(judged) > 1 else [],
        "questions": _questions(data.questions),
    }


def _questions(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """With the paths of pictures relative to the folder that has them all."""
    folder = os.path.commonpath([os.path.dirname(image) for each in questions for image in each.images])
    return [
        {**each.as_json(), "images": [os.path.relpath(image, folder) for image in each.images]}
        for each in questions
    ]


def kept_answers(folder: Path, questions: Sequence[Question]) -> Answers:
    """Of the server that an earlier evaluation of the same questions asked.

    Raises:
        UsageError: the folder has none, or it asked something else.
    """
    path = folder / "results.json"
    try:
        kept = json.loads(path.read_bytes())
        answers = Answers.from_json(kept["servers"][0])
        asked = {each["key"]: _what(each) for each in kept["questions"]}
    except OSError as error:
        raise UsageError(f"cannot read {one_line(str(path))}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{one_line(str(path))} is no result of an evaluation") from error
    same = [
        each.key for each in questions if asked.get(each.key) == _what(json.loads(json.dumps(each.as_json())))
    ]
    if not same:
        raise UsageError(f"{one_line(str(path))} has none of the questions that are asked now")
    if changed := [each.key for each in questions if each.key in asked and each.key not in same]:
        raise UsageError(f"{one_line(str(path))} has another question named {one_line(changed[0])!r}")
    return answers


def _what(question: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked and judged, wherever the pictures are."""
    names = [os.path.basename(image) for image in question["images"]]
    return {**question, "images": names}
