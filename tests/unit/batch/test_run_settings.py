"""What a run was asked to do, and who may go on with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from phi_vision.batch.run_settings import Question, RunSettings
from phi_vision.errors import UsageError

NOTHING = Question()


def agreed(kept: Any, kind: Any, question: Question = NOTHING) -> RunSettings:
    kept = json.loads(json.dumps(kept))  # as a queue keeps it
    return RunSettings.agreed(kept, kind, question, "/base", "DIR")


def test_a_new_run() -> None:
    assert agreed({}, "files") == RunSettings("files", Question("ocr"), "/base")
    question = Question("vqa", "How many?", {"type": "integer"})
    assert agreed({}, "files", question).question == question
    assert agreed({}, "lines") == RunSettings("lines", NOTHING, "/base")


def test_a_run_goes_on_as_it_was() -> None:
    question = Question("vqa", "How many?", {"type": "integer"})
    run = RunSettings("files", question, "/elsewhere", True, 1.5, 7)
    for again in (NOTHING, question, Question(task="vqa"), Question(prompt="How many?")):
        assert agreed(run.as_json(), "files", again) == run
    assert agreed(run.as_json(), None) == run


@pytest.mark.parametrize(
    ("kept", "kind", "question", "message"),
    [
        (None, None, NOTHING, "DIR holds no run: name an INPUT"),
        (None, "files", Question("vqa"), "--task vqa needs a question: add --prompt"),
        (None, "lines", Question("ocr"), "--task is not for OpenAI batch files"),
        (None, "lines", Question(prompt="x"), "--prompt is not for OpenAI batch files"),
        ("files", "lines", NOTHING, "DIR holds a run of pictures and documents; name another folder"),
        ("lines", "files", NOTHING, "DIR holds a run of OpenAI batch files; name another folder"),
        ("files", "files", Question("caption"), "DIR holds a run with another --task"),
        ("files", "files", Question(prompt="x"), "DIR holds a run with another --prompt"),
        ("files", "files", Question(schema={}), "DIR holds a run with another --schema"),
        ("lines", "lines", Question("ocr"), "DIR holds a run with another --task"),
        ("files", None, NOTHING, "has not seen all of its inputs"),
    ],
)
def test_what_does_not_agree_is_refused(kept: Any, kind: Any, question: Question, message: str) -> None:
    run = {} if kept is None else agreed({}, kept).as_json()
    with pytest.raises(UsageError, match=message):
        agreed(run, kind, question)
