"""PDF files that are odd or hostile: an answer or a clear refusal, bounded, and nothing else lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.view import PageView
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import Canvas
from phi_vision.model.crops import CropLimit

from tests.support import bad_pdfs
from tests.support.pdf import Page, file_of, pdf, stream

REFUSED, ODD, ENDLESS = bad_pdfs.refused(), bad_pdfs.odd(), bad_pdfs.endless()
LIMITS = PictureLimits(max_pixels=1_000_000)
LOW_LIMIT_S = 0.5


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(LIMITS, workers=1, request_s=60)
    yield pool
    pool.close()


def draw(pool: WorkerPool, data: bytes, page: int = 0) -> Canvas:
    return asyncio.run(pool.draw(data, CropLimit(4), view=PageView(page)))


def extract_page(pool: WorkerPool, data: bytes) -> bytes:
    """The first page by itself."""
    return asyncio.run(pool.extract_page(data, 0, max_bytes=10_000_000))


def draws_what_is_good(pool: WorkerPool) -> bool:
    return float(draw(pool, pdf(Page(b"0 0 595 842 re f"))).pixels.mean()) < 200


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_says_why(pool: WorkerPool, name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(PictureRefused, match=message):
        draw(pool, data)
    with contextlib.suppress(PictureRefused):
        extract_page(pool, data)
    assert draws_what_is_good(pool)


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_drawn(pool: WorkerPool, name: str) -> None:
    assert asyncio.run(pool.count_pages(ODD[name])) >= 1
    shows = name not in ("deep arrays", "no contents", "contents are noise", "tiny")
    for data in (ODD[name], extract_page(pool, ODD[name])):
        assert (draw(pool, data).pixels < 128).any() == shows


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_costs_the_time_of_one_request(pool: WorkerPool, name: str) -> None:
    short = pool.share()
    short._left_s = short.limit_s = LOW_LIMIT_S
    drawing = pool.draw(ENDLESS[name], CropLimit(4), short)
    with pytest.raises(PictureRefused, match=r"took longer than 0.5 s|ran out of memory"):
        asyncio.run(drawing)
    assert draws_what_is_good(pool)


def test_ten_thousand_pages_are_counted_and_any_drawn(pool: WorkerPool) -> None:
    data = pdf(*[Page()] * 9_999, Page(b"0 0 595 842 re f"))
    assert asyncio.run(pool.count_pages(data)) == 10_000
    assert (draw(pool, data, 9_998).pixels == 255).all()
    assert (draw(pool, data, 9_999).pixels == 0).any()


def test_pages_that_are_only_said_to_be_there_are_damaged(pool: WorkerPool) -> None:
    with pytest.raises(PictureRefused, match="page 6 is damaged"):
        draw(pool, ODD["says that it has more pages"], 5)


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (595, 842), (14_400, 200)])
def test_pages_of_one_file_have_their_own_sizes(pool: WorkerPool, size: tuple[float, float]) -> None:
    canvas = draw(pool, pdf(Page(), Page(size=size)), 1)
    assert canvas.width / canvas.height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize(
    ("kind", "has_appearance", "flags"),
    [("Stamp", True, 0), ("Widget", True, 0), ("Widget", False, 0), ("Widget", True, 2)],
)
def test_fields_and_stamps_show_what_the_file_says(
    pool: WorkerPool, kind: str, has_appearance: bool, flags: int
) -> None:
    """Also where their appearance is still to be made; a hidden one (flag 2) is not shown."""
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    form = (
        f"/AcroForm << /Fields [5 0 R] /NeedAppearances {str(not has_appearance).lower()} "
        f"/DR << /Font << /F {font} >> >> /DA (/F 40 Tf 0 g) >> "
        "/OpenAction << /S /JavaScript /JS (app.alert(1)) >>"
    )
    annotation = (
        f"<< /Type /Annot /Subtype /{kind} /Rect [50 50 150 100] /F {flags} /FT /Tx /T (name) /V (HELLO) "
        f"/DA (/F 40 Tf 0 g) {'/AP << /N 6 0 R >>' if has_appearance else ''} >>"
    )
    data = file_of(
        {
            1: f"<< /Type /Catalog /Pages 2 0 R {form} >>".encode(),
            2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Annots [5 0 R] >>",
            5: annotation.encode(),
            6: stream(b"0 0 100 50 re f", "/Type /XObject /Subtype /Form /BBox [0 0 100 50]"),
        }
    )
    for shown in (data, extract_page(pool, data)):
        assert (draw(pool, shown).pixels < 64).any() == (flags == 0)
