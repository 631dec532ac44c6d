"""What the parts of a request with a picture or document say."""

from __future__ import annotations

from typing import Any

import pytest
from phi_vision.errors import RequestError
from phi_vision.tasks.media_parts import MediaPart, read_file

PDF = "data:application/pdf;base64,JVBERi0="


def test_the_ways_to_give_a_file() -> None:
    assert read_file({"file_data": PDF, "filename": "a.pdf"}, "p") == MediaPart("p", PDF, is_file=True)
    assert read_file({"file_data": "JVBERi0="}, "p").url == "data:;base64,JVBERi0="
    assert read_file({"file_url": "https://x/a.pdf"}, "p").url == "https://x/a.pdf"
    given = read_file({"file_id": "file-1", "file_data": None, "pages": "2-", "detail": "low"}, "p")
    assert given == MediaPart("p", "", "low", "file-1", "2-", is_file=True)


def test_what_is_sent_as_data_is_never_fetched() -> None:
    for text in ("http://x/", "file:///etc/passwd"):
        assert read_file({"file_data": text}, "p").url.startswith("data:;base64,")


@pytest.mark.parametrize(
    ("file", "param"),
    [
        (None, "p"),
        ("file-1", "p"),
        ({}, "p"),
        ({"filename": "a.pdf"}, "p"),
        ({"file_data": PDF, "file_id": "file-1"}, "p"),
        ({"file_data": ""}, "p.file_data"),
        ({"file_id": 5}, "p.file_id"),
        ({"file_data": PDF, "filename": []}, "p.filename"),
        ({"file_url": PDF}, "p.file_url"),
        ({"file_data": PDF, "pages": [1]}, "p.pages"),
        ({"file_data": PDF, "pages": "0"}, "p.pages"),
        ({"file_data": PDF, "detail": "ultra"}, "p.detail"),
        ({"file_data": PDF, "page": "1"}, "p.page"),
    ],
)
def test_mistakes_name_their_field(file: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_file(file, "p")
    assert caught.value.param == param


def test_a_part_does_not_show_its_file() -> None:
    assert "JVBERi0" not in repr(read_file({"file_data": PDF}, "p"))
