"""The files that are made from a queue."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from phi_vision.batch.output import FORMATS, response_line, write_responses, write_results
from phi_vision.batch.work import Item, Record
from phi_vision.errors import UsageError

ANSWER = {
    "text": "HELLO\nWORLD",
    "status": "complete",
    "model": "phi-3.5-vision",
    "server": "http://127.0.0.1:8000/v1",
    "confidence": 0.75,
    "words": [["HELLO", 0.5, 0], ["WORLD", None, 6]],
    "usage": {"prompt_tokens": 100, "completion_tokens": 4},
    "seconds": 1.25,
    "rotation": 90,
    "tiles": 1,
    "attempts": [{"purpose": "read"}],
}
ERROR = {"message": "the PDF is *encrypted*", "cause": "unreadable", "status": None}
ODD = "\udcff<b>_#|\x1b[2J.png"


def record(key: str, answer: Any = None, error: Any = None, **request: Any) -> Record:
    state: Any = "done" if error is None else "failed"
    return Record(0, Item(key, {"source": f"/in/{key.split('#')[0]}", **request}), state, 1, answer, error)


RECORDS = [
    record("a.png", ANSWER),
    record("b.pdf#2", {**ANSWER, "text": "cut\n", "status": "truncated", "words": None}, page=2, pages=10),
    record("b.pdf#3", {**ANSWER, "text": "", "status": "blank", "usage": None}, page=3, pages=10),
    record("c.pdf#1", None, ERROR, page=1),
    record(ODD, {**ANSWER, "text": "half \ud800", "rotation": None}),
]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_has_all_that_does_not_depend_on_when_it_was_asked(tmp_path: Path) -> None:
    assert write_results(tmp_path, RECORDS, ["jsonl"]) == [tmp_path / "results.jsonl"]
    whole, cut, _, failed, odd = rows(tmp_path / "results.jsonl")
    kept = {name: value for name, value in ANSWER.items() if name not in ("seconds", "server")}
    assert whole == {
        "key": "a.png",
        "source": "/in/a.png",
        "page": None,
        "pages": None,
        **kept,
        "error": None,
    }
    assert (cut["key"], cut["page"], cut["pages"], cut["status"]) == ("b.pdf#2", 2, 10, "truncated")
    assert (failed["status"], failed["text"], failed["error"]) == ("failed", None, ERROR)
    assert (odd["key"], odd["text"]) == (ODD, "half \ud800")


def test_txt_is_the_texts_below_headings(tmp_path: Path) -> None:
    write_results(tmp_path, RECORDS, ["txt"])
    assert (tmp_path / "results.txt").read_text() == (
        "--- a.png ---\nHELLO\nWORLD\n"
        "--- b.pdf, page 2 of 10 (truncated) ---\ncut\n"
        "--- b.pdf, page 3 of 10 (blank) ---\n"
        "--- c.pdf, page 1 (failed: the PDF is *encrypted*) ---\n"
        "--- \\udcff<b>_#|\\u001b[2J.png ---\nhalf \\ud800\n"
    )


def test_markdown_has_names_that_are_no_markup(tmp_path: Path) -> None:
    write_results(tmp_path, RECORDS, ["md"])
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("## a.png\n\nHELLO\nWORLD\n\n## b.pdf, page 2 of 10 (truncated)\n\ncut\n\n## ")
    assert r"## c.pdf, page 1 (failed: the PDF is \*encrypted\*)" in text
    assert not re.search(r"^## .*<b>", text, re.MULTILINE)


def test_parquet_has_columns_for_what_is_nested(tmp_path: Path) -> None:
    write_results(tmp_path, RECORDS, ["parquet"])
    whole, cut, blank, failed, odd = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert whole["words"] == [
        {"text": "HELLO", "confidence": 0.5, "start": 0},
        {"text": "WORLD", "confidence": None, "start": 6},
    ]
    assert (whole["prompt_tokens"], whole["completion_tokens"], blank["prompt_tokens"]) == (100, 4, None)
    assert (cut["page"], cut["pages"], cut["words"]) == (2, 10, None)
    assert (failed["error"], failed["error_cause"], failed["error_status"]) == (
        ERROR["message"],
        "unreadable",
        None,
    )
    assert (odd["key"][:6], odd["text"], odd["rotation"]) == ("\\udcff", "half \\ud800", None)
    assert json.loads(whole["attempts"]) == [{"purpose": "read"}]


def test_tables_of_many_rows_and_of_none(tmp_path: Path) -> None:
    for count in (2500, 0):
        write_results(tmp_path, (record(f"{n}.png", ANSWER) for n in range(count)), ["parquet"])
        table = pyarrow.parquet.read_table(tmp_path / "results.parquet")
        assert table["key"].to_pylist() == [f"{n}.png" for n in range(count)]


def test_the_same_results_are_the_same_bytes(tmp_path: Path) -> None:
    def files() -> list[bytes]:
        return [path.read_bytes() for path in write_results(tmp_path, RECORDS, FORMATS)]

    assert files() == files()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"results.{name}" for name in FORMATS)


def test_what_cannot_be_read_to_the_end_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    def broken() -> Iterator[Record]:
        yield RECORDS[0]
        raise UsageError("no more")

    write_results(tmp_path, RECORDS, FORMATS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="no more"):
        write_results(tmp_path, broken(), FORMATS)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install 'phi-vision\[parquet\]'"):
        write_results(tmp_path, RECORDS, FORMATS)
    assert list(tmp_path.iterdir()) == []


RESPONSE = {"status_code": 200, "request_id": "r", "body": {"choices": []}}
REFUSAL = {"error": {"message": "no"}}


def test_responses_are_openais_two_files(tmp_path: Path) -> None:
    records = [
        record("a", RESPONSE),
        record("b", None, {"message": "no", "cause": "refused", "status": 400, "body": REFUSAL}),
        record("c", None, {"message": "gone", "cause": "no answer", "status": None}),
    ]
    assert write_responses(tmp_path, records) == [tmp_path / "results.jsonl", tmp_path / "errors.jsonl"]
    [good] = rows(tmp_path / "results.jsonl")
    refused, unanswered = rows(tmp_path / "errors.jsonl")
    assert re.fullmatch(r"batch_req_[0-9a-f]{24}", good.pop("id"))
    assert good == {"custom_id": "a", "response": RESPONSE, "error": None}
    assert refused["response"] == {"status_code": 400, "request_id": "", "body": REFUSAL}
    assert refused["error"] is None
    assert (unanswered["response"], unanswered["error"]) == (None, {"code": "no answer", "message": "gone"})
    assert len({line["id"] for line in (refused, unanswered)}) == 2
    assert response_line(records[0])["id"] == response_line(records[0])["id"]
