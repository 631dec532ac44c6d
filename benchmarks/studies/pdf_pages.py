"""How many pages of PDF files a second does the front end prepare?

    python -m benchmarks.studies.pdf_pages --out FILE [--seconds N]

As `front_end`, with the engine stubbed out: requests with one page each of a document of ten, at full crops,
as `predict` sends them, so each request carries the whole file. The ideal is workers / (processor seconds to
render one page onto its canvas). Client, server and workers share the cores.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi_vision.media.decode import PictureLimits
from phi_vision.media.pages import draw
from phi_vision.media.view import PageView
from phi_vision.model.crops import CropLimit
from PIL import Image

from benchmarks.harness.machine import describe_machine
from benchmarks.studies import _front_end_requests
from benchmarks.studies._front_end_launch import Setting, measure, running
from benchmarks.studies._front_end_requests import Requests
from benchmarks.studies._front_end_server import NUM_CROPS
from tests.support.pdf import pdf, scanned, text_page

WORKERS = (1, 2)
PAGES = 10
LINES = 50  # of a page of text
A4_200_DPI = (1654, 2339)


def text() -> bytes:
    """Pages of print, A4, in a font of pdfium's."""
    words = "the quick brown fox jumps over the lazy dog and reads on until the line has ended here"
    lines = [f"{number} {words}" for number in range(LINES)]
    return pdf(*(text_page(f"page {page}", *lines, font_pt=10) for page in range(PAGES)))


def scan() -> bytes:
    """The same amount of print as a scanner sends it: a JPEG a page, A4 at 200 dpi."""
    page = Image.open(io.BytesIO(_front_end_requests.draw(*A4_200_DPI, "PNG")))
    return scanned([page] * PAGES)


DOCUMENTS: dict[str, Callable[[], bytes]] = {"text": text, "scan, 200 dpi": scan}


class PageRequests(Requests):
    """Bodies of requests, each with a file of its own and the next page of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data + bytes(-len(data) % 3))
        self._pages = itertools.cycle(range(1, PAGES + 1))

    def part(self, file: bytes) -> bytes:
        """The page as a file part."""
        url = b"data:application/pdf;base64," + file
        page = next(self._pages)
        return b'{"type": "file", "file": {"pages": "%d", "file_data": "%s"}}' % (page, url)


def seconds_a_page(data: bytes) -> float:
    """Processor time to draw a page here, opening the file included: the median of all pages."""
    times = []
    for page in range(-1, PAGES):  # one more, first, loads pdfium
        start = time.thread_time()
        draw(data, PageView(max(page, 0)), CropLimit(NUM_CROPS), PictureLimits(50_000_000))
        times.append(time.thread_time() - start)
    return statistics.median(times[1:])


def measure_pages(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """One row for each number of workers and document; the best of all rounds."""
    files = {name: make() for name, make in DOCUMENTS.items()}
    page_s = {name: seconds_a_page(data) for name, data in files.items()}
    rows = []
    for workers in WORKERS:
        with running(Setting("ours", workers=workers)) as server:
            for name, data in files.items():
                count = max(8 * workers, round(seconds * workers / page_s[name]))
                requests = PageRequests(data)
                found = [measure(server, requests, count, 4 * workers) for _ in range(rounds)]
                rates = [each.pictures_per_s for each in found]
                api_ms = statistics.mean(each.api_ms for each in found)
                ideal = workers / page_s[name]
                rows.append(
                    {
                        "workers": workers,
                        "document": name,
                        "file_bytes": len(data),
                        "requests": count,
                        "pages_per_s": round(max(rates), 2),
                        "rounds_per_s": [round(rate, 2) for rate in rates],
                        "page_cpu_ms": round(1000 * page_s[name], 2),  # in a worker
                        "server_cpu_ms": round(api_ms, 2),  # a page, without the workers
                        "share_of_ideal": round(max(rates) / ideal, 3),
                    }
                )
                print(f"{workers} workers  {name:15} {max(rates):8.1f}/s", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the JSON goes")
    parser.add_argument(
        "--seconds", type=float, default=5, help="of work for each row (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="of each row, the best counts (default: %(default)s)"
    )
    options = parser.parse_args()
    result = {
        "machine": describe_machine() | {"load_average": os.getloadavg()[0]},
        "seconds": options.seconds,
        "pages": PAGES,
        "num_crops": NUM_CROPS,
        "speed": measure_pages(options.seconds, options.rounds),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
