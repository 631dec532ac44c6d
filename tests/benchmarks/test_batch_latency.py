"""The client's side of the study of a batch beside clients."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

from PIL import Image

from benchmarks.studies import batch_latency


def test_each_request_has_a_file_of_its_own_of_the_same_picture() -> None:
    files = [
        sent_file(body)
        for seed in ("one", "other")
        for body in itertools.islice(batch_latency.bodies(seed), 3)
    ]
    assert len(set(files)) == 6
    pictures = {Image.open(io.BytesIO(file)).convert("RGB").tobytes() for file in files}
    assert len(pictures) == 1


def sent_file(body: dict[str, Any]) -> bytes:
    [part] = body["messages"][0]["content"]
    return base64.b64decode(part["image_url"]["url"].partition(",")[2], validate=True)


def test_the_95th_percentile_lies_between_the_slowest() -> None:
    assert batch_latency.spread([float(ms) for ms in range(1, 22)]) == {"p50": 11.0, "p95": 20.0}
