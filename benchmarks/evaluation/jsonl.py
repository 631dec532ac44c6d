"""A data set as JSONL: a question a line.

| field | what |
|---|---|
| `image` | a path, or a list of several, relative to the file (or to `--images`) |
| `task` | a preset: `caption`, `ocr`, `vqa` |
| `question` | the user's text; without it the task's own |
| `answers` | a list of texts, any of which is right |
| `id` | default: the line's number |
| `part` | gets a score of its own |
| `metrics` | names; the first says which answers are the worst; default by the task |
| `extra_body` | more fields of the request, such as `{"max_tokens": 64}` |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError

from benchmarks.evaluation import pictures
from benchmarks.evaluation.questions import ALL, Question

# What answers are judged by where a line does not say. A caption has no right words.
METRICS_OF_TASK: Mapping[str, tuple[str, ...]] = {"ocr": ("cer", "wer", "exact"), "vqa": ("exact", "anls")}

_FIELDS = {
    "image": "a path or a list of paths",
    "task": "text",
    "question": "text",
    "answers": "a list of texts",
    "id": "text",
    "part": "text",
    "metrics": "a list of texts",
    "extra_body": "an object",
}
_NEEDED = ("image", "task", "answers")
_OURS = {"model", "messages", "stream", "n", "task"}  # fields of the request that the evaluation sets


def questions(file: Path, images: Path | None) -> Iterator[tuple[str, Question]]:
    """Each question, after where it stands, for messages.

    Raises:
        UsageError: a line is not as it should be; names it.
    """
    folder = file.parent if images is None else images
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{one_line(str(file))}, line {number}"
        try:
            yield where, _question(line, f"line {number}", folder)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {one_line(str(file))}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{one_line(str(file))} is not UTF-8") from error


def _question(line: str, key: str, folder: Path) -> Question:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("it is not JSON") from error
    if not isinstance(entry, dict):
        raise UsageError("it is not a JSON object")
    for name in sorted(entry.keys() - _FIELDS.keys()):
        raise UsageError(f"a question has no field {one_line(repr(name))}; fields: {', '.join(_FIELDS)}")
    for name in _NEEDED:
        if name not in entry:
            raise UsageError(f"no {name!r}")
    for name, value in entry.items():
        if not _fits(_FIELDS[name], value):
            raise UsageError(f"{name!r} must be {_FIELDS[name]}")
    extra_body = entry.get("extra_body", {})
    for name in sorted(_OURS & extra_body.keys()):
        raise UsageError(f"'extra_body' may not set {name!r}")
    names = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
    task = entry["task"]
    if entry.get("part") == ALL:
        raise UsageError(f"no part may be named {ALL!r}: that is the whole")
    return Question(
        key=entry.get("id", key),
        images=tuple(pictures.find(name, [folder]) for name in names),
        task=task,
        text=entry.get("question"),
        answers=tuple(entry["answers"]),
        metrics=tuple(entry.get("metrics", METRICS_OF_TASK.get(task, ()))),
        part=entry.get("part", ""),
        extra_body=extra_body,
    )


def _fits(kind: str, value: Any) -> bool:
    is_list = isinstance(value, list) and value != [] and all(isinstance(each, str) for each in value)
    match kind:
        case "text":
            return isinstance(value, str) and value.strip() != ""
        case "a list of texts":
            return is_list
        case "a path or a list of paths":
            return is_list or isinstance(value, str)
        case _:
            return isinstance(value, dict)
