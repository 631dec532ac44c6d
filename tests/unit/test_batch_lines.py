"""The lines of a batch's input file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch.work import Item
from phi_vision.limits import Limits
from phi_vision.serving.batches import lines
from phi_vision.serving.batches.lines import InputLines, read_body
from phi_vision.serving.files import FileStore

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello \U0001f600"}]}


def line(custom_id: Any = "a", **changes: Any) -> bytes:
    request = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": HELLO, **changes}
    return json.dumps({name: value for name, value in request.items() if value is not None}).encode()


def read(data: bytes, max_lines: int = 5, max_line_bytes: int = 1000) -> tuple[list[Item], list[Any]]:
    found = InputLines(io.BytesIO(data), CHAT, max_lines, max_line_bytes)
    return list(found), found.errors


def test_each_line_is_an_item_that_says_where_it_is() -> None:
    data = b"\n".join([line("a"), b"", line("\u00e4"), b"  ", line("c")]) + b"\r\n\n"
    items, errors = read(data)
    assert errors == [] and [item.key for item in items] == ["a", "\u00e4", "c"]
    assert [json.loads(data[i.request["at"] :][: i.request["bytes"]])["custom_id"] for i in items] == [
        "a",
        "\u00e4",
        "c",
    ]


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b"\xff\xfe", "invalid_json_line", None),
        (b"[" * 900, "invalid_json_line", None),
        (line(None), "missing_required_parameter", "custom_id"),
        (line(method=None), "missing_required_parameter", "method"),
        (line(url=None), "missing_required_parameter", "url"),
        (line(body=None), "missing_required_parameter", "body"),
        (line(5), "invalid_custom_id", "custom_id"),
        (line(""), "invalid_custom_id", "custom_id"),
        (line("x" * 513), "invalid_custom_id", "custom_id"),
        (line("\ud800"), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(body=[]), "invalid_body", "body"),
        (line(body={**HELLO, "stream": True}), "invalid_body", "body.stream"),
        (line(body={**HELLO, "background": True}), "invalid_body", "body.background"),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line(body={"prompt": "x" * 1000}), "line_too_large", None),
    ],
)
def test_a_line_that_cannot_be_run_is_named(bad: bytes, code: str, param: str | None) -> None:
    items, errors = read(line("first") + b"\n" + bad + b"\n" + line("last"))
    assert [item.key for item in items] == ["first"]  # what follows an error is only checked
    assert [(error["code"], error["param"], error["line"]) for error in errors] == [(code, param, 2)]
    assert errors[0]["message"]


def test_a_stream_that_is_turned_off_is_none() -> None:
    assert read(line(body={**HELLO, "stream": False}))[1] == []


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_file_without_requests(data: bytes) -> None:
    assert [error["code"] for error in read(data)[1]] == ["empty_file"]


def test_no_more_lines_than_allowed() -> None:
    data = b"\n".join(line(str(n)) for n in range(6))
    assert [error["code"] for error in read(data)[1]] == ["too_many_requests"]
    assert read(data, max_lines=6)[1] == []


def test_errors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_ERRORS", 3)
    assert [error["line"] for error in read(b"{\n" * 5)[1]] == [1, 2, 3]


def test_a_body_is_read_from_the_held_file(tmp_path: Path) -> None:
    store = FileStore(Limits(files_folder=str(tmp_path / "files")))
    owner = store.owner("key")
    data = line("a") + b"\n" + line("b", body={"prompt": "second", "seed": 1})
    draft = store.reserve(owner, len(data) + 1000)
    file = store.keep(draft, io.BytesIO(data), filename="x", purpose="batch", age_s=60)
    held = tmp_path / "files" / "held"
    store.hold(file.id, owner, held)
    store.delete(file.id, owner)
    with FileStore.open_held(held) as opened:
        items = list(InputLines(opened, CHAT, 5, 1000))
    assert read_body(held, items[1]) == {"prompt": "second", "seed": 1}
