"""`report.html`'s data: pieces that a browser can load from a file, written as the records come."""

from __future__ import annotations

import json
import os
import re
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch import report
from phi_vision.batch.report import PIECE_RECORDS, write_report
from phi_vision.batch.work import Item, Record
from phi_vision.documents.readings import LOW_CONFIDENCE
from phi_vision.errors import UsageError

from tests.support.batch_records import done, failed, many


def received(file: Path) -> tuple[str, str, list[Any], dict[str, Any] | None]:
    """What a script of data hands over: its name, the run, rows; with the index, what is known of the run."""
    call = re.fullmatch(r"received\((.*)\);\n", file.read_text("ascii"), re.DOTALL)
    assert call
    name, run, rows, *about = json.loads("[" + re.sub(r",\n\]", "\n]", call[1]) + "]")
    return name, run, rows, about[0] if about else None


def details(folder: Path, records: Iterable[Record]) -> list[dict[str, Any]]:
    write_report(folder, records, {})
    return received(folder / "report" / "0001.js")[2]


def test_the_list_is_a_piece_of_its_own_and_texts_come_by_two_hundred(tmp_path: Path) -> None:
    page = write_report(tmp_path, many(450, tmp_path), {"seconds": 60})
    assert page == tmp_path / "report.html" and page.read_text().startswith("<!doctype html>")
    _, run, rows, about = received(tmp_path / "report" / "index.js")
    assert len(rows) == 450 and rows[0][:2] == ["letters/box 01/letter-00000.png", "complete"]
    assert rows[13][1] == "failed" and rows[13][4] in ("unreadable", "refused", "no answer")
    assert about and about["starts"] == [0, PIECE_RECORDS, 2 * PIECE_RECORDS]
    assert about["summary"] == {"seconds": 60} and about["low_confidence"] == 100 * LOW_CONFIDENCE
    pieces = [received(tmp_path / "report" / f"000{number}.js") for number in (1, 2, 3)]
    assert [(name, of, len(piece)) for name, of, piece, _ in pieces] == [
        ("0001", run, 200),
        ("0002", run, 200),
        ("0003", run, 50),
    ]
    assert sum(about[name] for name in ("prompt_tokens", "completion_tokens")) > 757 * 400


def test_few_records_are_held_at_a_time(tmp_path: Path) -> None:
    gone: list[int] = []
    held: list[int] = []

    def records() -> Iterator[Record]:
        for number in range(2500):
            record = done(number, f"{number}.png", "some words " * 50)
            weakref.finalize(record, gone.append, number)
            held.append(number + 1 - len(gone))
            yield record

    write_report(tmp_path, records(), {})
    assert max(held) < 500


def test_a_piece_is_bounded_in_characters_too(tmp_path: Path) -> None:
    write_report(tmp_path, (done(number, f"{number}.png", "x" * 900_000) for number in range(7)), {})
    about = received(tmp_path / "report" / "index.js")[3]
    assert about and about["starts"] == [0, 5]


def test_a_shorter_run_leaves_no_pieces_of_a_longer_one_and_no_file_of_others(tmp_path: Path) -> None:
    write_report(tmp_path, many(450, tmp_path), {})
    (tmp_path / "report" / "thesis.js").write_text("mine")
    write_report(tmp_path, many(10, tmp_path), {})
    assert sorted(file.name for file in (tmp_path / "report").glob("[0-9]*")) == ["0001.js"]
    assert (tmp_path / "report" / "thesis.js").read_text() == "mine"
    assert not list(tmp_path.rglob(".phi-vision-*"))


def test_a_very_long_run_is_shown_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_ITEMS", 3)
    write_report(tmp_path, many(5, tmp_path), {"items": 5})
    _, _, rows, about = received(tmp_path / "report" / "index.js")
    assert about and (len(rows), about["summary"]["items"]) == (3, 5)


def test_a_run_without_items_has_a_report(tmp_path: Path) -> None:
    write_report(tmp_path, [], {})
    about = received(tmp_path / "report" / "index.js")[3]
    assert about and about["starts"] == []


def test_places_of_words_are_counted_as_a_browser_does(tmp_path: Path) -> None:
    text = "a 😀b c"
    words = [["a", 0.999, 0], ["😀b", 0.5, 2], ["c", 1.0, 5]]
    [item] = details(tmp_path, [done(0, "a.png", text, words=words)])
    assert item["text"] == text and item["words"] == [0, 1, 99, 2, 3, 50, 6, 1, 100]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("scans/a b#1.PNG", {"kind": "picture", "href": "../scans/a%20b%231.PNG"}),
        ("scans/javascript:x.jpg", {"kind": "picture", "href": "../scans/javascript%3Ax.jpg"}),
        ("book.pdf", {"kind": "pdf", "href": "../book.pdf"}),
        ("fax.tif", {"kind": "link", "href": "../fax.tif"}),
        (os.fsdecode(b"\xff.gif"), {"kind": "picture", "href": "../%FF.gif"}),
    ],
)
def test_local_files_are_named_from_the_folder_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (source, str(tmp_path / source)):
        record = done(0, "key", request={"source": name, "page": 3})
        [item] = details(Path("out"), [record])
        assert item["source"] == {"name": name, "page": 3, **expected}


def test_only_web_addresses_become_links(tmp_path: Path) -> None:
    urls = ["HTTPS://example.org/a.png?x=1", "data:image/png;base64,AAAA"]
    web, data = details(tmp_path, [done(0, url, request={"source": url}) for url in urls])
    assert web["source"]["kind"] == "link" and web["source"]["href"] == urls[0]
    assert "source" not in data


def test_a_line_of_a_batch_file_shows_its_answer(tmp_path: Path) -> None:
    def line(number: int, body: dict[str, Any]) -> Record:
        request = {"method": "POST", "url": "/v1/chat/completions", "body": {}}
        return Record(number, Item(f"line-{number}", request), "done", 1, {"status_code": 200, "body": body})

    choice = {"message": {"content": "Hello"}, "finish_reason": "length"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    bodies: list[dict[str, Any]] = [
        {"model": "phi", "choices": [choice], "usage": usage},
        {"object": "list", "data": [0.5]},
        {"model": ["?"], "choices": [{"message": {"content": None}, "finish_reason": []}], "usage": "no"},
    ]
    chat, *others = details(tmp_path, [line(number, body) for number, body in enumerate(bodies)])
    assert (chat["text"], chat["model"], chat["usage"]) == ("Hello", "phi", usage)
    assert [json.loads(other["text"]) for other in others] == bodies[1:]
    _, _, rows, about = received(tmp_path / "report" / "index.js")
    assert [row[1] for row in rows] == ["truncated", "complete", "complete"]
    assert about and about["prompt_tokens"] == 5


def test_each_cause_has_an_example_and_what_waits_is_listed(tmp_path: Path) -> None:
    records = [
        failed(0, "a.png", "refused", "too large", 413),
        failed(1, "b.png", "refused", "other"),
        replace(done(2, "c.png"), state="waiting", result=None),
    ]
    items = details(tmp_path, records)
    assert items[0]["error"] == {"message": "too large", "cause": "refused", "status": 413}
    _, _, rows, about = received(tmp_path / "report" / "index.js")
    assert about and about["examples"] == {"refused": "too large"}
    assert [row[1] for row in rows] == ["failed", "failed", "waiting"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write .*report"):
        write_report(tmp_path, [], {})
