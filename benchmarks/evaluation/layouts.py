"""The layouts of public data sets, as they are published: annotations as JSON, pictures in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError

from benchmarks.evaluation import pictures
from benchmarks.evaluation.questions import Question

Entry = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Layout:
    """How a data set is written down.

    Args:
        name: of the data set.
        fields: that each entry must have, with their types.
        is_wrapped: whether the entries are `data` of an object; else the file is a list of them.
        metrics: that its figures are published in.
        folders: where its pictures lie, beside or above the annotations.
        picture: of an entry.
        text: the field with what is asked.
        answers: of an entry.
        key: the field that is unique; None: there is none.
        part: of an entry in a file.
        has_parts: whether several files make up one data set.
    """

    name: str
    fields: Mapping[str, type | tuple[type, ...]]
    is_wrapped: bool
    metrics: tuple[str, ...]
    folders: tuple[str, ...]
    picture: Callable[[Entry], str]
    text: str
    answers: Callable[[Entry], list[Any]]
    key: str | None = None
    part: Callable[[Entry, Path], str] = lambda entry, file: ""
    has_parts: bool = False


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


LAYOUTS = (
    # https://github.com/Yuliang-Liu/MultimodalOCR, OCRBench.json
    Layout(
        "OCRBench",
        {
            "dataset_name": str,
            "image_path": str,
            "question": str,
            "answers": (str, list, int, float),
            "type": str,
        },
        is_wrapped=False,
        metrics=("ocrbench",),
        folders=("OCRBench_Images",),
        picture=lambda entry: entry["image_path"],
        text="question",
        answers=lambda entry: _listed(entry["answers"]),
        part=lambda entry, file: entry["type"],
    ),
    # https://textvqa.org/dataset, TextVQA_0.5.1_val.json
    Layout(
        "TextVQA",
        {"question_id": (int, str), "image_id": str, "question": str, "answers": list},
        is_wrapped=True,
        metrics=("vqa_accuracy",),
        folders=("train_images", "train_val_images", "images"),
        picture=lambda entry: f"{entry['image_id']}.jpg",
        text="question",
        answers=lambda entry: entry["answers"],
        key="question_id",
    ),
    # https://www.docvqa.org, val_v1.0_withQT.json and val_v1.0.json
    Layout(
        "DocVQA",
        {"questionId": (int, str), "question": str, "image": str, "answers": list},
        is_wrapped=True,
        metrics=("anls",),
        folders=("spdocvqa_images", "documents", "images", "train", "val", "test"),
        picture=lambda entry: entry["image"],
        text="question",
        answers=lambda entry: entry["answers"],
        key="questionId",
    ),
    # https://github.com/vis-nlp/ChartQA, test_human.json and test_augmented.json
    Layout(
        "ChartQA",
        {"imgname": str, "query": str, "label": str},
        is_wrapped=False,
        metrics=("relaxed",),
        folders=("png",),
        picture=lambda entry: entry["imgname"],
        text="query",
        answers=lambda entry: [entry["label"]],
        part=lambda entry, file: file.stem.rpartition("_")[2],
        has_parts=True,
    ),
)
KNOWN = "a .jsonl file with `image`, `task` and `answers` in each line, or the annotations of " + ", ".join(
    layout.name for layout in LAYOUTS
)


def layout_of(file: Path) -> Layout:
    """The layout that the file's first entry has.

    Raises:
        UsageError: it has none; says what is missing.
    """
    content = _content(file)
    wrapped = isinstance(content, dict)
    entries = content.get("data") if isinstance(content, dict) else content
    first = entries[0] if isinstance(entries, list) and entries else None
    if isinstance(first, dict):
        near = max(
            (layout for layout in LAYOUTS if layout.is_wrapped == wrapped),
            key=lambda layout: len(layout.fields.keys() & first.keys()) / len(layout.fields),
        )
        if lacking := [name for name in near.fields if name not in first]:
            if len(near.fields) - len(lacking) > 1:
                raise UsageError(f"{one_line(str(file))} looks like {near.name}, but has no {lacking[0]!r}")
        else:
            return near
    raise UsageError(f"{one_line(str(file))} is no data set that is known: {KNOWN}")


def layout_if_known(file: Path) -> Layout | None:
    """The same, or None for a file that is something else."""
    try:
        return layout_of(file)
    except UsageError as error:
        if "looks like" in str(error):
            raise
        return None


def questions(layout: Layout, file: Path, images: Path | None) -> Iterator[tuple[str, Question]]:
    """Each question, after where it stands, for messages.

    Raises:
        UsageError: an entry is not as it should be; names it.
    """
    content = _content(file)
    folders = (
        [images]
        if images
        else [folder / name for folder in (file.parent, file.parent.parent) for name in ("", *layout.folders)]
    )
    for number, entry in enumerate(content["data"] if layout.is_wrapped else content, 1):
        where = f"{one_line(str(file))}, entry {number}"
        try:
            yield where, _question(layout, entry, number, file, folders)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error


def _question(layout: Layout, entry: Any, number: int, file: Path, folders: list[Path]) -> Question:
    if not isinstance(entry, dict):
        raise UsageError("it is not a JSON object")
    for name, kinds in layout.fields.items():
        if name not in entry:
            raise UsageError(f"no {name!r}")
        if not isinstance(entry[name], kinds) or isinstance(entry[name], bool):
            raise UsageError(f"{name!r} is of a wrong type")
    answers = layout.answers(entry)
    if not answers or not all(isinstance(answer, str | int | float) for answer in answers):
        raise UsageError("no answers")
    name = layout.picture(entry)
    try:
        picture = pictures.find(name, folders)
    except UsageError:
        picture = pictures.find(Path(name).name, folders)  # archives were packed with and without folders
    return Question(
        key=f"{file.stem} {number}" if layout.key is None else str(entry[layout.key]),
        images=(picture,),
        task="vqa",
        text=entry[layout.text],
        answers=tuple(map(str, answers)),
        metrics=layout.metrics,
        part=layout.part(entry, file),
    )


@lru_cache(maxsize=2)
def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {one_line(str(file))}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{one_line(str(file))} is not JSON") from error
