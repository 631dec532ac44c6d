"""What the user names, as the items of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from phi_vision.batch import inputs
from phi_vision.batch.inputs import Files, batch_lines, kind_of, parse_batch_line
from phi_vision.batch.pages import Pages
from phi_vision.batch.work import Item
from phi_vision.errors import RequestError, UsageError
from phi_vision.limits import Limits

from tests.support.pdf import Page, pdf
from tests.support.pictures import encoded, reference_picture

PICTURE = encoded(reference_picture(40, 30, seed=0))
TWO_PAGES = pdf(Page(), Page())


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    opened = Pages(tmp_path / "fetched", Limits(media_workers=1, decode_timeout_s=600))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are as a user would write them. The workers import the package from where it is."""
    monkeypatch.setenv("PYTHONPATH", str(Path(inputs.__file__).parents[2]))
    monkeypatch.chdir(tmp_path)


def make(tree: dict[str, bytes]) -> None:
    for name, data in tree.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def items(pages: Pages, *names: str, column: str | None = None, base: str = ".") -> list[Item]:
    files = Files(names, column, Path(base).resolve(), Path("out"))
    files.check()
    return list(files.items(pages))


def keys(pages: Pages, *names: str, **options: Any) -> list[str]:
    return [item.key for item in items(pages, *names, **options)]


def refused(pages: Pages, *names: str, **options: Any) -> str:
    with pytest.raises(UsageError) as raised:
        items(pages, *names, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


TREE = {
    "scans/b.pdf": TWO_PAGES,
    "scans/a.PNG": b"not looked at",
    "scans/c/d.jpeg": b"",
    "scans/notes.md": b"",
    "scans/.hidden.png": b"",
    "scans/.cache/e.png": b"",
    "out/f.png": b"",
}


def test_a_folder_is_walked_in_the_order_of_names(pages: Pages) -> None:
    make(TREE)
    assert keys(pages, "scans") == ["scans/a.PNG", "scans/b.pdf#1", "scans/b.pdf#2", "scans/c/d.jpeg"]
    assert keys(pages, ".")[0] == "scans/a.PNG" and not [key for key in keys(pages, ".") if "f.png" in key]


def test_an_item_has_what_is_needed_to_read_it_from_anywhere(pages: Pages, tmp_path: Path) -> None:
    make(TREE)
    path = str(tmp_path / "scans" / "b.pdf")
    assert items(pages, "scans/b.pdf") == [
        Item("scans/b.pdf#1", {"source": path, "page": 1, "pages": 2}),
        Item("scans/b.pdf#2", {"source": path, "page": 2, "pages": 2}),
    ]
    assert items(pages, "scans/a.PNG") == [Item("scans/a.PNG", {"source": str(tmp_path / "scans" / "a.PNG")})]


def test_a_key_is_the_same_however_the_file_is_named_and_from_wherever(
    pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(TREE)
    names = ("scans/c/d.jpeg", "./scans/../scans/c", str(tmp_path / "scans" / "c"), "scans/c/*", "**/d.jpeg")
    assert {key for name in names for key in keys(pages, name)} == {"scans/c/d.jpeg"}
    monkeypatch.chdir("scans")
    assert keys(pages, "c", base=str(tmp_path)) == ["scans/c/d.jpeg"]
    assert keys(pages, "../out/f.png") == [str(tmp_path / "out" / "f.png")]


def test_links_that_lead_back_are_walked_once(pages: Pages) -> None:
    make({"a/x.png": b"", "b/y.png": b""})
    os.symlink("..", "a/up")
    os.symlink("../b", "a/side")
    assert keys(pages, "a") == ["a/side/y.png", "a/up/b/y.png", "a/x.png"]


def test_what_is_named_is_an_item_whatever_it_is(pages: Pages) -> None:
    make({"notes.md": b"", "scan": TWO_PAGES, "broken.pdf": b"%PDF-", "fax.tif": PICTURE})
    assert keys(pages, "notes.md", "scan", "broken.pdf", "fax.tif") == [
        "notes.md",
        "scan#1",
        "scan#2",
        "broken.pdf#1",
        "fax.tif#1",
    ]
    assert items(pages, "broken.pdf")[0].request.keys() == {"source", "page"}


def test_a_glob_is_like_a_folder(pages: Pages) -> None:
    make(TREE | {"x[1].png": b""})
    assert keys(pages, "scans/*") == keys(pages, "scans")
    assert keys(pages, "scans/*.pdf", "x[1].png") == ["scans/b.pdf#1", "scans/b.pdf#2", "x[1].png"]


def test_addresses_of_pictures_are_not_fetched(pages: Pages) -> None:
    urls = ["http://127.0.0.1:9/a.png", "HTTPS://127.0.0.1:9/b?x=.pdf#c.pdf", "http://[odd/c"]
    assert items(pages, *urls) == [Item(url, {"source": url}) for url in urls]
    assert keys(pages, "http://127.0.0.1:9/a.PDF?x=1") == [
        "http://127.0.0.1:9/a.PDF?x=1#1"
    ]  # nobody is there


def test_a_list_has_a_path_or_an_address_a_line(pages: Pages) -> None:
    text = "\ufeffa.png\r\n\n  ../b.png \nhttp://127.0.0.1:9/c.png\n/d.png\n".encode()
    make({"lists/list.txt": text + b"\xff.png\n"})
    assert keys(pages, "lists/list.txt") == [
        "lists/a.png",
        "b.png",
        "http://127.0.0.1:9/c.png",
        "/d.png",
        "lists/\udcff.png",
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_has_them_in_a_column(pages: Pages, kind: str) -> None:
    name = f"table.{kind}"
    if kind == "csv":
        make({name: b'\xef\xbb\xbfid,path\n1,a.png\n2,\n3,"b, c.png"\n4\n'})
    else:
        table = pyarrow.table({"id": [1, 2, 3, 4], "path": ["a.png", "", "b, c.png", None]})
        pyarrow.parquet.write_table(table, name)
    assert keys(pages, name, column="path") == ["a.png", "b, c.png"]
    assert "which column has the paths? Add --column; its columns: id, path" in refused(pages, name)
    assert "no column 'x'; its columns: id, path" in refused(pages, name, column="x")


def test_the_only_column_needs_no_name(pages: Pages) -> None:
    make({"table.csv": b"path\na.png\n"})
    assert keys(pages, "table.csv") == ["a.png"]


@pytest.mark.parametrize(
    ("tree", "name", "column", "message"),
    [
        ({}, "missing.png", None, "no such file"),
        ({}, "*.png", None, "no such file"),
        ({}, "missing.csv", "path", "no such file"),
        ({"a.png": b""}, "a.png", "path", "--column is for .csv and .parquet"),
        ({"a.txt": b"s3://bucket/a.png"}, "a.txt", None, "a.txt: s3://bucket/a.png is no path"),
        ({"a.csv": b"path\n" + b"x" * 200_000}, "a.csv", None, "a.csv is not a table"),
        ({"a.csv": b""}, "a.csv", "path", "its columns: none"),
        ({"a.parquet": b"PAR1"}, "a.parquet", "path", "a.parquet is not a table"),
    ],
)
def test_mistakes_are_one_line(
    pages: Pages, tree: dict[str, bytes], name: str, column: str | None, message: str
) -> None:
    make(tree)
    assert message in refused(pages, name, column=column)


def test_a_column_of_something_else_is_refused(pages: Pages) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"path": [1, 2]}), "table.parquet")
    assert "holds no text" in refused(pages, "table.parquet")


def test_without_pyarrow_it_says_what_to_install(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    make({"table.parquet": b""})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert refused(pages, "table.parquet") == "Parquet files need pyarrow: pip install 'phi-vision[parquet]'"


LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"x": 1}}


def lines(*requests: Any) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def test_the_lines_of_a_batch_file_are_items() -> None:
    make(
        {
            "a.jsonl": b"\n" + lines(LINE, {**LINE, "custom_id": "b"}),
            "b.JSONL": lines({**LINE, "custom_id": "c"}),
        }
    )
    assert kind_of(["a.jsonl", "b.JSONL"]) == "lines"
    request = {name: LINE[name] for name in ("method", "url", "body")}
    assert list(batch_lines(["a.jsonl", "b.JSONL"])) == [Item(key, request) for key in "abc"]


def test_files_and_lines_are_not_mixed() -> None:
    assert kind_of(["a.png", "b"]) == "files"
    with pytest.raises(UsageError, match="not both"):
        kind_of(["a.jsonl", "b.png"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps({**LINE, "custom_id": ""}), "custom_id must be text"),
        (json.dumps({**LINE, "method": "GET"}), "method must be POST"),
        (json.dumps({**LINE, "url": "http://x"}), "url must begin with /v1/"),
        (json.dumps({**LINE, "body": []}), "body must be an object"),
        (json.dumps({**LINE, "priority": 1}), "no field 'priority'"),
        (json.dumps({"custom_id": "a"}), "method must be POST"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_batch_line(line)
    make({"a.jsonl": lines(LINE) + line.encode()})
    with pytest.raises(UsageError, match=f"a.jsonl, line 2: .*{message}"):
        list(batch_lines(["a.jsonl"]))


def test_an_id_names_one_line_of_all_files() -> None:
    make({"a.jsonl": lines(LINE), "b.jsonl": lines({**LINE, "custom_id": "b"}, LINE)})
    with pytest.raises(UsageError, match=r"b\.jsonl, line 2: an earlier line has the custom_id 'a'"):
        list(batch_lines(["a.jsonl", "b.jsonl"]))


def test_a_line_is_not_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "max_body_mb", 0.001)
    make({"a.jsonl": b"x" * 5000, "b.jsonl": b"\xff\n"})
    with pytest.raises(UsageError, match=r"a line of a.jsonl is longer than 0\.001 MB"):
        list(batch_lines(["a.jsonl"]))
    with pytest.raises(UsageError, match=r"b.jsonl is not UTF-8"):
        list(batch_lines(["b.jsonl"]))
