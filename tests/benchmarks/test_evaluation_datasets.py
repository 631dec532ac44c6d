"""Data sets on disk: the layouts as they are published, in small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from demo_training import exam
from phi_vision.errors import UsageError

from benchmarks.evaluation import datasets

PEOPLE = ["nous les gosses", "dakota"] + ["dakota digital"] * 8


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        write(folder / name, "not looked at here")


def ocrbench(folder: Path) -> None:
    entry = {"dataset_name": "IIIT5K", "id": 2843, "question": "what is written in the image?"}
    rows = [
        {
            **entry,
            "image_path": "IIIT5K/test/918_1.png",
            "answers": "CENTRE",
            "type": "Regular Text Recognition",
        },
        {**entry, "image_path": "ORAND/a.png", "answers": ["12", 13], "type": "Digit String Recognition"},
    ]
    write(folder / "OCRBench.json", rows)
    pictures(folder / "OCRBench_Images", "IIIT5K/test/918_1.png", "ORAND/a.png")


def textvqa(folder: Path) -> None:
    entry = {
        "question": "what is the brand of this camera?",
        "image_id": "003a8ae2ef43b901",
        "image_classes": ["Cassette deck"],
        "image_width": 1024,
        "image_height": 664,
        "answers": PEOPLE,
        "question_id": 34602,
        "set_name": "val",
    }
    write(folder / "data/TextVQA_0.5.1_val.json", {"dataset_version": "0.5.1", "data": [entry]})
    pictures(folder / "train_images", "003a8ae2ef43b901.jpg")


def docvqa(folder: Path, with_types: bool = True) -> None:
    entry = {
        "questionId": 49153,
        "question": "What is the date?",
        "image": "documents/pybv0228_81.png",
        "docId": 14465,
        "ucsf_document_id": "pybv0228",
        "ucsf_document_page_no": "81",
        "answers": ["1/8/93", "1/8/1993"],
        "data_split": "val",
    } | ({"question_types": ["handwritten", "form"]} if with_types else {})
    name = "val_v1.0_withQT.json" if with_types else "val_v1.0.json"
    write(folder / name, {"dataset_name": "SP-DocVQA", "dataset_split": "val", "data": [entry]})
    pictures(folder, "spdocvqa_images/pybv0228_81.png" if with_types else "documents/pybv0228_81.png")


def chartqa(folder: Path) -> None:
    row = {"imgname": "41699051005347.png", "query": "How many food item is shown?", "label": "14"}
    write(folder / "test_human.json", [row, {**row, "query": "And corn?", "label": "0.57"}])
    write(folder / "test_augmented.json", [row])
    write(folder / "tables.json", {"something": "else"})
    pictures(folder / "png", "41699051005347.png")


@pytest.mark.parametrize(
    ("make", "inside", "layout", "expected"),
    [
        (
            ocrbench,
            ".",
            "OCRBench",
            [("Regular Text Recognition", ("CENTRE",)), ("Digit String Recognition", ("12", "13"))],
        ),
        (textvqa, "data", "TextVQA", [("", tuple(PEOPLE))]),
        (docvqa, ".", "DocVQA", [("", ("1/8/93", "1/8/1993"))]),
        (lambda folder: docvqa(folder, False), ".", "DocVQA", [("", ("1/8/93", "1/8/1993"))]),
        (chartqa, ".", "ChartQA", [("augmented", ("14",)), ("human", ("14",)), ("human", ("0.57",))]),
    ],
)
def test_the_layouts_of_public_data_sets(
    make: Callable[[Path], None], inside: str, layout: str, expected: list[Any], tmp_path: Path
) -> None:
    make(tmp_path)
    data = datasets.read(tmp_path / inside)
    assert data.layout == layout and data.size == len(expected)
    assert [(question.part, question.answers) for question in data.questions] == expected
    for question in data.questions:
        assert question.task == "vqa" and question.text and Path(*question.images).is_file()
    assert len({question.key for question in data.questions}) == len(expected)


def test_a_file_of_a_folder_and_the_pictures_elsewhere(tmp_path: Path) -> None:
    chartqa(tmp_path)
    (tmp_path / "png").rename(tmp_path / "elsewhere")
    file = tmp_path / "test_human.json"
    with pytest.raises(
        UsageError, match=r"test_human.json, entry 1: no picture '41699051005347.png' in .*--images"
    ):
        datasets.read(file)
    data = datasets.read(file, tmp_path / "elsewhere")
    assert [question.part for question in data.questions] == ["human", "human"]


LINE: dict[str, Any] = {"image": "a.png", "task": "ocr", "answers": ["A"]}


def jsonl(folder: Path, *lines: Any) -> Path:
    pictures(folder, "a.png", "b.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return write(folder / "set.jsonl", text)


def test_lines_of_json(tmp_path: Path) -> None:
    two = {"image": ["b.png", "a.png"], "task": "vqa", "question": "Which?", "answers": ["The first", "1"]}
    more = {"id": "x", "part": "hard", "metrics": ["anls"], "extra_body": {"max_tokens": 5}}
    plain, both, full = datasets.read(jsonl(tmp_path, LINE, "", two, {**two, **more})).questions
    assert (plain.key, plain.text, plain.metrics) == ("line 1", None, ("cer", "wer", "exact"))
    assert [Path(image).name for image in both.images] == ["b.png", "a.png"]
    assert (both.key, both.metrics, both.answers) == ("line 3", ("exact", "anls"), ("The first", "1"))
    assert (full.key, full.part, full.metrics, full.extra_body) == ("x", "hard", ("anls",), {"max_tokens": 5})
    assert full.request["extra_body"] == {"max_tokens": 5} and "answers" not in full.request


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ({"image": "a.png", "task": "ocr"}, "no 'answers'"),
        ({**LINE, "answer": "A"}, "no field 'answer'"),
        ({**LINE, "answers": "A"}, "'answers' must be a list of texts"),
        ({**LINE, "answers": []}, "'answers' must be"),
        ({**LINE, "image": [1]}, "'image' must be a path"),
        ({**LINE, "image": "c.png"}, "no picture 'c.png'"),
        ({**LINE, "image": "http://example.org/a.png"}, "pictures are read from disk"),
        ({**LINE, "task": "sing"}, "no task 'sing'; tasks: caption, ocr, vqa"),
        ({**LINE, "task": "vqa"}, "the task vqa needs a question"),
        ({**LINE, "task": "caption"}, "a caption has no metric of its own"),
        ({**LINE, "metrics": ["bleu"]}, "no metric 'bleu'; metrics: exact"),
        ({**LINE, "answers": ["A", "B"]}, "cer needs exactly 1"),
        ({**LINE, "part": "all"}, "no part may be named 'all'"),
        ({**LINE, "extra_body": {"model": "x"}}, "'extra_body' may not set 'model'"),
        ({**LINE, "id": "line 1"}, "an earlier question has the id 'line 1'"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        datasets.read(jsonl(tmp_path, LINE, line))
    message = str(raised.value)
    assert "set.jsonl, line 2: " in message and complaint in message and "\n" not in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "x.json is not JSON"),
        ([], "no data set that is known"),
        ({"data": []}, "no data set that is known"),
        ([{"name": "x"}], "a .jsonl file with `image`, `task` and `answers`"),
        ([{"imgname": "a.png", "query": "?"}], "looks like ChartQA, but has no 'label'"),
        ({"data": [{"questionId": 1, "question": "?", "image": "a.png"}]}, "DocVQA, but has no 'answers'"),
        ([{"imgname": "a.png", "query": "?", "label": "1"}, {"imgname": "a.png"}], "entry 2: no 'query'"),
        ([{"imgname": "a.png", "query": "?", "label": 1}], "entry 1: 'label' is of a wrong type"),
        (
            {"data": [{"question_id": 1, "image_id": "a", "question": "?", "answers": ["x"]}]},
            "no picture 'a.jpg'",
        ),
    ],
)
def test_a_file_that_is_none_of_them_says_what_is_missing(
    content: Any, complaint: str, tmp_path: Path
) -> None:
    pictures(tmp_path, "a.png")
    with pytest.raises(UsageError) as raised:
        datasets.read(write(tmp_path / "x.json", content))
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_answers_of_fewer_than_ten_people_are_refused(tmp_path: Path) -> None:
    textvqa(tmp_path)
    path = tmp_path / "data/TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text())
    content["data"][0]["answers"] = ["a"]
    with pytest.raises(UsageError, match="entry 1: vqa_accuracy needs exactly 10 right answers, here are 1"):
        datasets.read(write(tmp_path / "data/other.json", content))


def test_folders_without_one_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file or folder"):
        datasets.read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no data set: a "):
        datasets.read(tmp_path)
    jsonl(tmp_path, LINE)
    docvqa(tmp_path)
    with pytest.raises(UsageError, match=r"several data sets: name one of set.jsonl, val_v1.0_withQT.json"):
        datasets.read(tmp_path)


def test_a_larger_sample_holds_the_smaller(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({**LINE, "id": f"{n}"} for n in range(40)))
    small, large, whole = (datasets.read(path, limit=limit) for limit in (10, 20, 100))
    assert (small.size, len(small.questions), len(large.questions), len(whole.questions)) == (40, 10, 20, 40)
    keys = [question.key for question in large.questions]
    assert {question.key for question in small.questions} < set(keys) and keys == sorted(keys, key=int)
    assert keys != [f"{n}" for n in range(20)]


def test_the_exam_of_the_demo_is_one(tmp_path: Path) -> None:
    data = datasets.read(exam.write(tmp_path, 1))
    parts = {question.part: question for question in data.questions}
    assert {"ocr, 16 crops", "caption", "outside the domain"} <= parts.keys()
    assert parts["ocr, 16 crops"].images == parts["ocr, 1 crops"].images
    assert parts["ocr, 16 crops"].extra_body["mm_processor_kwargs"] == {"num_crops": 16}
    assert parts["ocr, 16 crops"].metrics == ("exact", "cer") and parts["caption"].metrics == ("exact",)
