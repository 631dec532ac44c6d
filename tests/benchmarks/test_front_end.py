"""The client's side of the study of the front end."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from phi_vision.media import pages
from PIL import Image

from benchmarks.studies import _front_end_requests, pdf_pages


def sent_file(body: bytes) -> bytes:
    _, part = json.loads(body)["messages"][0]["content"]
    return base64.b64decode(part["image_url"]["url"].partition(",")[2], validate=True)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_each_request_has_a_file_of_its_own_of_the_same_picture(image_format: str) -> None:
    data = _front_end_requests.draw(300, 200, image_format)
    requests = _front_end_requests.Requests(data)
    files = [sent_file(requests.next()) for _ in range(3)]
    assert len(set(files)) == 3 and all(file.startswith(data) for file in files)
    pictures = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    assert pictures[0].shape == (200, 300, 3) and pictures[0].std() > 10


def test_each_request_asks_for_the_next_page_of_a_file_of_its_own() -> None:
    data = pdf_pages.text()
    requests = pdf_pages.PageRequests(data)
    parts = [json.loads(requests.next())["messages"][0]["content"][1]["file"] for _ in range(11)]
    assert [part["pages"] for part in parts] == [*map(str, range(1, 11)), "1"]
    files = [base64.b64decode(part["file_data"].partition(",")[2], validate=True) for part in parts]
    assert len(set(files)) == 11 and all(file.startswith(data) for file in files)
    assert {pages.count_pages(file) for file in files} == {10}
    assert pdf_pages.seconds_a_page(files[0]) > 0
