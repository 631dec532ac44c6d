"""The client of `front_end`: pictures that are drawn here, each request with one of its own."""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.studies._front_end_server import MODEL

ANSWER_TIMEOUT_S = 900


def draw(width: int, height: int, image_format: str) -> bytes:
    """A file of this size: a photograph-like JPEG or a page-like PNG. Its length is a multiple of three."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(0)
    if image_format == "JPEG":
        coarse = random.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    else:
        image = Image.new("RGB", (width, height), "white")
        pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=22)
        for y in range(60, height - 60, 34):
            words = "".join(map(chr, random.integers(97, 123, 95)))
            words = " ".join(words[i : i + 6] for i in range(0, 95, 6))
            pen.text((60, y), words, "black", font)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **({"quality": 90} if image_format == "JPEG" else {}))
    data = buffer.getvalue()
    return data + bytes(-len(data) % 3)


class Requests:
    """Bodies of requests, each with a picture of its own: a few bytes behind the file make it another one."""

    def __init__(self, data: bytes) -> None:
        self._encoded = base64.b64encode(data)
        self._numbers = itertools.count(int.from_bytes(os.urandom(4), "big"))

    def next(self) -> bytes:
        """The body of the next request."""
        tail = base64.b64encode(next(self._numbers).to_bytes(9, "big"))
        head = (
            f'{{"model": "{MODEL}", "max_tokens": 1, "temperature": 0, "messages": [{{"role": "user", '
            '"content": [{"type": "text", "text": "What is this?"}, '
        )
        return head.encode() + self.part(self._encoded + tail) + b"]}]}"

    def part(self, file: bytes) -> bytes:
        """The file, in base64, as a content part."""
        return b'{"type": "image_url", "image_url": {"url": "data:image/x;base64,' + file + b'"}}'


def post_all(port: int, requests: Requests, count: int, concurrency: int) -> float:
    """Send `count` requests, `concurrency` at a time; seconds from the first to the last answer."""
    local = threading.local()

    def post(_: int) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
        local.connection.request(
            "POST", "/v1/chat/completions", requests.next(), {"content-type": "application/json"}
        )
        answer = local.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {text[:500]!r}")

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(post, range(count)))
    return time.perf_counter() - start
