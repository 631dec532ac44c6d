"""Pictures and single pages, as they are sent."""

from __future__ import annotations

import asyncio
import base64
import http.server
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from phi_vision.batch import pages as module
from phi_vision.batch.pages import Pages
from phi_vision.batch.work import ItemError
from phi_vision.client.images import Input
from phi_vision.limits import Limits
from PIL import Image

from tests.support.pdf import Page, encrypted, pdf, text_page
from tests.support.pictures import data_url, encoded, reference_picture

PICTURE = reference_picture(40, 30, seed=0)
LIMITS = Limits(media_workers=1, decode_timeout_s=600)
TWO_PAGES = pdf(text_page("ONE"), Page(size=(300, 200)))
FRAMES = [reference_picture(40, 30, seed) for seed in range(3)]
THREE_FRAMES = encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:])


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    opened = Pages(tmp_path / "fetched", LIMITS)
    yield opened
    opened.close()


def read(reader: Pages, source: object, **request: Any) -> Input:
    return asyncio.run(reader.read({"source": str(source), **request}))


def fault(reader: Pages, source: object, **request: Any) -> ItemError:
    with pytest.raises(ItemError) as raised:
        read(reader, source, **request)
    assert raised.value.cause == "unreadable" and "\n" not in str(raised.value)
    return raised.value


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def sent(given: Input) -> bytes:
    return base64.b64decode(given.url.partition(",")[2])


def test_a_picture_is_sent_as_it_is(pages: Pages, tmp_path: Path) -> None:
    data = encoded(PICTURE)
    given = read(pages, written(tmp_path, "a.png", data))
    assert given.part == {"type": "image_url", "image_url": {"url": data_url(data)}}


def test_a_page_of_a_pdf_is_a_pdf(pages: Pages, tmp_path: Path) -> None:
    path = written(tmp_path, "a.pdf", TWO_PAGES)
    given = read(pages, path, page=2, pages=2)
    alone = written(tmp_path, "alone.pdf", sent(given))
    file = given.part["file"]
    assert (file["filename"], file["pages"]) == ("a.pdf", "1")
    assert file["file_data"].startswith("data:application/pdf;base64,")
    assert asyncio.run(pages.count(str(alone))) == 1
    assert read(pages, path, page=2, pages=2) == given  # byte for byte


def test_a_page_of_a_tiff_is_a_picture(pages: Pages, tmp_path: Path) -> None:
    given = read(pages, written(tmp_path, "a.tif", THREE_FRAMES), page=3, pages=3)
    assert given.part["type"] == "image_url"
    assert Image.open(io.BytesIO(sent(given))).tobytes() == FRAMES[2].tobytes()


def test_pages_are_counted(pages: Pages, tmp_path: Path) -> None:
    for name, data, count in (
        ("a.pdf", TWO_PAGES, 2),
        ("a.tif", THREE_FRAMES, 3),
        ("a.png", encoded(PICTURE), 1),
    ):
        assert asyncio.run(pages.count(str(written(tmp_path, name, data)))) == count


def test_several_pages_where_one_was_expected_are_not_left_out(pages: Pages, tmp_path: Path) -> None:
    path = written(tmp_path, "a.png", TWO_PAGES)
    assert "a document of 2 pages, but its name says" in str(fault(pages, path))
    assert "2 pages, but it could not be opened" in str(fault(pages, path, page=1))
    assert read(pages, written(tmp_path, "b.png", pdf(Page()))).part["file"]["pages"] == "1"


@pytest.mark.parametrize(
    ("data", "request_", "message"),
    [
        (encrypted(TWO_PAGES), {"page": 1}, "encrypted; remove its password"),
        (TWO_PAGES[:100], {"page": 1}, "damaged"),
        (TWO_PAGES, {"page": 3, "pages": 3}, "no page 3, only 2"),
        (THREE_FRAMES, {"page": 4, "pages": 4}, "no page 4"),
        (b"text", {}, "none of BMP, GIF"),
        (b"", {}, "none of BMP, GIF"),
    ],
)
def test_what_cannot_be_read_says_why(
    pages: Pages, tmp_path: Path, data: bytes, request_: dict[str, int], message: str
) -> None:
    error = fault(pages, written(tmp_path, "a", data), **request_)
    assert message in str(error) and error.is_final


@pytest.mark.parametrize(
    ("name", "message"), [("missing.png", "No such file"), (".", "Is a directory"), ("a\0b", "null")]
)
def test_what_is_no_file_says_so(pages: Pages, tmp_path: Path, name: str, message: str) -> None:
    assert message in str(fault(pages, f"{tmp_path}/{name}"))


def test_a_pipe_does_not_hold_up_the_run(pages: Pages, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in str(fault(pages, tmp_path / "pipe.png"))


def test_files_over_the_limits_are_not_read(
    pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, document = written(tmp_path, "a.png", encoded(PICTURE)), written(tmp_path, "a.pdf", TWO_PAGES)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 200)
    assert "larger than 0.0002 MB" in str(fault(pages, picture))
    assert "its page 1 alone is larger than 0.0002 MB" in str(fault(pages, document, page=1, pages=2))
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 500)
    assert "larger than 0.0005 MB" in str(fault(pages, document, page=1, pages=2))


@pytest.fixture
def host() -> Iterator[Any]:
    """Serves `files` by path, and keeps what it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        files: ClassVar[dict[str, bytes]] = {}
        asked: ClassVar[list[str]] = []
        url = ""

        def do_GET(self) -> None:
            self.asked.append(self.path)
            data = self.files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        Handler.url = f"http://127.0.0.1:{running.server_port}"
        yield Handler
        running.shutdown()


def test_a_document_is_fetched_once_for_all_of_its_pages(pages: Pages, host: Any) -> None:
    host.files["/a.pdf"] = TWO_PAGES
    url = f"{host.url}/a.pdf"
    assert asyncio.run(pages.count(url)) == 2
    first, second = (read(pages, url, page=page, pages=2) for page in (1, 2))
    assert first.url != second.url and host.asked == ["/a.pdf"]


def test_a_host_that_fails_may_be_asked_again(pages: Pages, host: Any) -> None:
    error = fault(pages, f"{host.url}/a.png")
    assert not error.is_final and "answered 404" in str(error)
    host.files["/a.png"] = encoded(PICTURE)
    assert read(pages, f"{host.url}/a.png").size == PICTURE.size
