"""Documents become pages in the place of their part, within the limits of a prompt."""

from __future__ import annotations

import asyncio
from typing import Any

import pybase64
import pytest
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureRefused
from phi_vision.media.fetch import FetchRefused
from phi_vision.model.crops import CropPolicy
from phi_vision.serving.documents import Documents
from phi_vision.serving.files import FileStore
from phi_vision.serving.pictures import Picture, Pictures, PromptLimits
from phi_vision.tasks.media_parts import MediaPart

PICTURE = b"\x89PNG..."


class Files:
    """`http://h/NUMBER` is a PDF of so many pages, other URLs are pictures; data URLs are decoded."""

    def __init__(self) -> None:
        self.read_urls: list[str] = []

    async def read(self, url: str) -> bytes:
        self.read_urls.append(url)
        if url.endswith("gone"):
            raise FetchRefused("the host answered 404", "answer")
        if url.startswith("data:"):
            return pybase64.b64decode(url.partition(",")[2])
        name = url.rpartition("/")[2]
        return f"%PDF-{name}".encode() if name.isdecimal() else PICTURE


class Pool:
    def __init__(self) -> None:
        self.shares: set[object] = set()

    def share(self) -> object:
        return object()

    async def count_pages(self, data: bytes, share: object) -> int:
        self.shares.add(share)
        if data == b"%PDF-0":
            raise PictureRefused("it has no pages")
        return int(data.removeprefix(b"%PDF-")) if data.startswith(b"%PDF-") else 1


def open_parts(*parts: MediaPart, files: Files | None = None, **options: Any) -> list[list[Picture]]:
    sources: Any = files or Files()
    pool: Any = Pool()
    pictures = Pictures(sources, pool, CropPolicy(), FileStore(Limits(max_files_mb=0)))
    opened = asyncio.run(Documents(pictures, PromptLimits(3, 5, 8)).open(parts, "", **options))
    assert len(pool.shares) <= 1
    return opened


def shape(opened: list[list[Picture]]) -> list[list[int | None]]:
    return [[picture.view.page if picture.view else None for picture in each] for each in opened]


def at(number: int, url: str, kind: str = "image_url", **fields: Any) -> MediaPart:
    return MediaPart(f"messages[0].content[{number}].{kind}", url, is_file=kind == "file", **fields)


def inline(data: bytes) -> str:
    return f"data:;base64,{pybase64.b64encode(data).decode()}"


def test_each_page_is_a_picture_in_its_place() -> None:
    parts = [at(0, "http://h/a.png"), at(1, "http://h/2"), at(2, inline(b"%PDF-3"), "file", pages="3,1")]
    opened = open_parts(*parts, at(3, inline(PICTURE), detail="low"))
    assert shape(opened) == [[None], [0, 1], [2, 0], [None]]
    assert opened[1][0].file is opened[1][1].file is not None
    assert [each[0].param for each in opened] == [part.param for part in (*parts, at(3, ""))]
    assert opened[3][0].detail == "low"


def test_a_picture_that_is_sent_along_is_left_for_later() -> None:
    files = Files()
    (opened,) = open_parts(at(0, inline(PICTURE)), files=files)
    assert opened[0].url and files.read_urls == []


def test_a_picture_by_url_is_fetched_once() -> None:
    files = Files()
    (opened,) = open_parts(at(0, "http://h/a.png"), files=files)
    assert opened[0].file is not None and not opened[0].url and len(files.read_urls) == 1
    assert (
        open_parts(at(0, "http://h/9"), files=files, fetch_first=False)[0][0].url
        and len(files.read_urls) == 1
    )


def test_a_picture_as_a_file_is_a_document_of_one_page() -> None:
    assert shape(open_parts(at(0, inline(PICTURE), "file"))) == [[0]]


@pytest.mark.parametrize(
    ("parts", "message", "number"),
    [
        ([at(n, inline(PICTURE)) for n in range(4)], "4 pictures; at most 3", None),
        ([at(n, "http://h/1", "file") for n in range(9)], "9 pictures; at most 3", None),
        ([at(0, "http://h/6")], "page 6 is one too many: .* 5 pages", 0),
        ([at(0, "http://h/4"), at(1, "http://h/9", "file", pages="7-9")], "page 8 is one too many", 1),
        ([at(0, "http://h/1", "file"), at(1, "http://h/2", "file", pages="3")], "no page 3", 1),
        ([at(0, "http://h/a"), at(1, "http://h/gone"), at(2, "http://h/0")], "404", 1),
        ([at(0, "http://h/0", "file")], "no pages", 0),
        ([at(0, "", "file", file_id="file-1")], "turned off", 0),
    ],
)
def test_the_part_and_the_page_at_fault_are_named(
    parts: list[MediaPart], message: str, number: int | None
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        open_parts(*parts)
    param = str(caught.value.param)
    assert param == "messages" if number is None else param.startswith(f"messages[0].content[{number}].")


def test_a_page_count_that_a_file_makes_up_costs_nothing() -> None:
    with pytest.raises(RequestError, match="page 6 is one too many"):
        open_parts(at(0, "http://h/2000000000"))


def test_nothing_is_read_of_a_request_with_too_many_parts() -> None:
    files = Files()
    with pytest.raises(RequestError):
        open_parts(*(at(n, "http://h/1", "file") for n in range(100)), files=files)
    assert files.read_urls == []
