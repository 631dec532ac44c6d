"""The study of the front end: its client, its arithmetic, and what its committed result is used for."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from phi_vision.media import pages
from phi_vision.planning.picture_costs import KINDS
from PIL import Image

from benchmarks.studies import _front_end_requests, front_end, pdf_pages
from benchmarks.studies._front_end_launch import Measured, Setting
from benchmarks.studies._front_end_server import ROOT


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


@pytest.mark.parametrize(
    ("cores", "api_processes", "workers", "limit_ms"),
    [
        (2, 1, 1, 20),  # of the one worker
        (2, 1, 4, 12),  # of both cores: 20 + 3 + 1 ms for each picture
        (64, 1, 32, 3),  # of the API process
        (64, 2, 32, 1.5),
        (64, 2, 1, 10),  # of two workers, one of each
    ],
)
def test_what_is_predicted(
    cores: int, api_processes: int, workers: int, limit_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "count_cores", lambda: cores)
    setting = Setting("ours", api_processes=api_processes, workers=workers)
    cost = Measured(0, api_ms=3, worker_ms=20, client_ms=1)
    assert front_end.predicted_per_s(setting, cost) == pytest.approx(1000 / limit_ms)


def test_the_plan_reckons_with_what_was_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "front_end.json").read_text())
    alone = {
        row["picture"]: row
        for row in found["speed"]
        if (row["front_end"], row["workers"], row.get("api_processes", 1)) == ("ours", 1, 1)
    }
    assert found["num_crops"] == 16 and list(alone) == [kind.name for kind in KINDS]
    for kind in KINDS:
        assert (kind.width, kind.height) == front_end.PICTURES[kind.name][:2]
        measured = (alone[kind.name]["worker_cpu_ms"], alone[kind.name]["server_cpu_ms"])
        assert (kind.draw_ms, kind.receive_ms) == pytest.approx(measured, abs=0.06)


def test_each_request_asks_for_the_next_page_of_a_file_of_its_own() -> None:
    data = pdf_pages.text()
    requests = pdf_pages.PageRequests(data)
    parts = [json.loads(requests.next())["messages"][0]["content"][1]["file"] for _ in range(11)]
    assert [part["pages"] for part in parts] == [*map(str, range(1, 11)), "1"]
    files = [base64.b64decode(part["file_data"].partition(",")[2], validate=True) for part in parts]
    assert len(set(files)) == 11 and all(file.startswith(data) for file in files)
    assert {pages.count_pages(file) for file in files} == {10}
    assert pdf_pages.seconds_a_page(files[0]) > 0
