"""PDF pages and TIFF frames, drawn by the picture workers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import numpy as np
import pytest
from phi_vision.documents.layout import page_of
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.levelling import levelled_size
from phi_vision.media.view import Frame, PageView, Region, Rotation
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import Canvas, resize_and_pad
from phi_vision.model.crops import CropLimit
from phi_vision.model.geometry import CROP_PX, crop_grid
from PIL import Image

from tests.support.pdf import A4, encrypted, file_of, pdf, picture_page, stream, text_page, without_password
from tests.support.pictures import encoded, reference_picture

LIMITS = PictureLimits(max_pixels=1_000_000)
PICTURE = reference_picture(600, 400, seed=1)
FULL = CropLimit(16)
TURNED: dict[Rotation, Image.Image] = {
    0: PICTURE,
    90: PICTURE.transpose(Image.Transpose.ROTATE_270),
    180: PICTURE.transpose(Image.Transpose.ROTATE_180),
    270: PICTURE.transpose(Image.Transpose.ROTATE_90),
}
ROTATIONS = pytest.mark.parametrize("rotation", list(TURNED))


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(LIMITS, workers=1, request_s=60)
    yield pool
    pool.close()


def draw(pool: WorkerPool, data: bytes, view: PageView | None = None, limit: CropLimit = FULL) -> Canvas:
    return asyncio.run(pool.draw(data, limit, view=view or PageView()))


def count_pages(pool: WorkerPool, data: bytes) -> int:
    return asyncio.run(pool.count_pages(data))


def extract_page(pool: WorkerPool, data: bytes, page: int) -> bytes:
    return asyncio.run(pool.extract_page(data, page, max_bytes=10_000_000))


def mean_difference(canvas: Canvas, expected: np.ndarray) -> float:
    """Of the bytes of two canvases of one size."""
    assert canvas.pixels.shape == expected.shape
    return float(np.abs(canvas.pixels.astype(int) - expected).mean())


@pytest.mark.parametrize("num_crops", [1, 4, 16])
@ROTATIONS
def test_a_page_that_shows_a_picture_is_drawn_as_the_picture_is(
    pool: WorkerPool, rotation: Rotation, num_crops: int
) -> None:
    canvas = draw(pool, pdf(PICTURE), PageView(rotation=rotation), CropLimit(num_crops))
    assert mean_difference(canvas, resize_and_pad(TURNED[rotation], num_crops)) < 2
    assert canvas.num_crops == num_crops


@ROTATIONS
def test_a_page_is_turned_as_the_file_says(pool: WorkerPool, rotation: Rotation) -> None:
    data = pdf(picture_page(PICTURE, entries=f"/Rotate {rotation}"))
    assert mean_difference(draw(pool, data), resize_and_pad(TURNED[rotation], 16)) < 2


def test_a_view_turns_further_than_the_file(pool: WorkerPool) -> None:
    data = pdf(picture_page(PICTURE, entries="/Rotate 90"))
    assert mean_difference(draw(pool, data, PageView(rotation=180)), resize_and_pad(TURNED[270], 16)) < 2


def test_a_page_is_cut_to_its_crop_box(pool: WorkerPool) -> None:
    data = pdf(picture_page(PICTURE, entries="/CropBox [100 50 400 350]"))  # from the lower left corner
    assert mean_difference(draw(pool, data), resize_and_pad(PICTURE.crop((100, 50, 400, 350)), 16)) < 2


def test_the_size_of_a_page_is_that_at_full_crops(pool: WorkerPool) -> None:
    grid = crop_grid(*A4, 16)
    for num_crops in (1, 16):
        canvas = draw(pool, pdf(text_page("HELLO")), limit=CropLimit(num_crops))
        assert (canvas.width, canvas.height) == (grid.resized_width, grid.resized_height)
        assert canvas.dpi == pytest.approx(72 * canvas.height / A4[1])


def test_a_part_of_a_page_is_rendered_on_a_grid_of_its_own(pool: WorkerPool) -> None:
    region = Region(0.25, 0.1, 0.75, 0.6)
    view = PageView(rotation=90, region=region)
    page = draw(pool, pdf(picture_page(PICTURE, entries="/Rotate 270")), view)
    part = PICTURE.crop((150, 40, 450, 240))
    inner = (slice(None), slice(8, -8), slice(8, -8))  # at the edge one sees beyond it
    difference = np.abs(page.pixels[inner].astype(int) - resize_and_pad(part, 16)[inner])
    assert np.median(difference) <= 2
    picture = draw(pool, encoded(TURNED[270]), view)
    assert np.array_equal(picture.pixels, resize_and_pad(part, 16))


SLANTS = pytest.mark.parametrize("slant", [-0.05, 0.02])


@SLANTS
@ROTATIONS
def test_a_slanting_page_is_drawn_level(pool: WorkerPool, rotation: Rotation, slant: float) -> None:
    smooth = PICTURE.resize((60, 40)).resize(PICTURE.size)  # fine detail would not survive two turns
    slanting = smooth.rotate(
        -math.degrees(math.atan(slant)), Image.Resampling.BICUBIC, expand=True, fillcolor="white"
    )
    lying = slanting.rotate(rotation, expand=True)  # counterclockwise, and without loss
    level_width, level_height = levelled_size(*slanting.size, slant)
    # All of the picture, which stands in the middle of the levelled page.
    across, down = PICTURE.width / level_width / 2, PICTURE.height / level_height / 2
    region = Region(0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down)
    for data in (encoded(lying), pdf(lying)):
        canvas = draw(pool, data, PageView(0, rotation, slant, region))
        assert mean_difference(canvas, resize_and_pad(smooth, 16)) < 4


def test_a_levelled_page_holds_its_corners_and_is_white_beyond_them(pool: WorkerPool) -> None:
    black = Image.new("RGB", (400, 300), "black")
    slant = 0.05
    canvases = [draw(pool, data, PageView(slant=slant)) for data in (encoded(black), pdf(black))]
    for canvas in canvases:
        width, height = levelled_size(400, 300, slant)
        assert canvas.width / canvas.height == pytest.approx(width / height, rel=0.01)
        page = page_of(canvas)
        assert (page < 128).mean() == pytest.approx(400 * 300 / (width * height), rel=0.01)
    corner = Region(0, 0, 0.02, 0.005)
    for data in (encoded(black), pdf(black)):
        assert draw(pool, data, PageView(slant=-slant, region=corner)).pixels.min() > 250


@pytest.mark.parametrize("num_crops", [4, 16])
def test_a_frame_gives_a_part_the_shape_of_its_grid(pool: WorkerPool, num_crops: int) -> None:
    band = Image.new("RGB", (500, 60), "black")
    for data in (encoded(band), pdf(band)):
        canvas = draw(pool, data, PageView(frame=Frame(1.25, 1)), CropLimit(num_crops))
        side = math.isqrt(num_crops) * CROP_PX
        assert canvas.pixels.shape == (3, side, side) and canvas.width == canvas.height
        ink = canvas.pixels[0] < 128
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        width = side / 1.25
        assert len(columns) == pytest.approx(width, abs=2)
        assert len(rows) == pytest.approx(width * 60 / 500, abs=2)
        for found in (rows, columns):
            assert found[0] + found[-1] == pytest.approx(side - 1, abs=2)  # in the middle


def test_parts_show_more_of_small_print(pool: WorkerPool) -> None:
    data = pdf(text_page(*["SMALL PRINT"] * 3, font_pt=6))
    whole = draw(pool, data)
    part = draw(pool, data, PageView(region=Region(0.05, 0.05, 0.3, 0.15)))
    assert part.dpi is not None and whole.dpi is not None and part.dpi > 3 * whole.dpi


def test_each_view_has_a_key_of_its_own(pool: WorkerPool) -> None:
    data = pdf(PICTURE, PICTURE)
    views = [
        PageView(),
        PageView(1),
        PageView(rotation=90),
        PageView(region=Region(0, 0, 0.5, 0.5)),
        PageView(region=Region(0, 0, 0.5, 0.6)),
        PageView(region=Region(0, 0, 0.5, 0.6), frame=Frame(1, 2)),
        PageView(slant=0.01),
    ]
    keys = [draw(pool, data, view, CropLimit(n)).key for view in views for n in (1, 4)]
    assert len(set(keys)) == len(keys)
    assert draw(pool, data, views[3], CropLimit(1)).key == keys[6]


def test_pages_are_counted_and_drawn_by_their_number(pool: WorkerPool) -> None:
    pictures = [reference_picture(400, 300, seed) for seed in range(3)]
    data = pdf(*pictures)
    assert count_pages(pool, data) == 3
    for page, picture in enumerate(pictures):
        assert mean_difference(draw(pool, data, PageView(page)), resize_and_pad(picture, 16)) < 2
    with pytest.raises(PictureRefused, match="no page 4, only 3"):
        draw(pool, data, PageView(3))


def test_an_encrypted_file_that_opens_without_a_password_is_read(pool: WorkerPool) -> None:
    plain = pdf(text_page("HELLO"), reference_picture(60, 40, seed=3))
    locked = without_password(plain)
    assert count_pages(pool, locked) == 2 and b"/Encrypt" in locked
    for page in range(2):
        expected = draw(pool, plain, PageView(page)).pixels
        assert expected.std() > 5  # print, not an empty page
        assert np.array_equal(draw(pool, locked, PageView(page)).pixels, expected)


def test_the_frames_of_a_tiff_are_pages(pool: WorkerPool) -> None:
    first, *others = [reference_picture(60 + 10 * seed, 40, seed) for seed in range(3)]
    data = encoded(first, "TIFF", save_all=True, append_images=others, dpi=(200, 200))
    assert count_pages(pool, data) == 3
    for page, picture in enumerate([first, *others]):
        canvas = draw(pool, data, PageView(page))
        assert np.array_equal(canvas.pixels, resize_and_pad(picture, 16))
        assert (canvas.width, canvas.height) == picture.size and canvas.dpi == 200
    with pytest.raises(PictureRefused, match="no page 4"):
        draw(pool, data, PageView(3))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_one_page(pool: WorkerPool, image_format: str) -> None:
    frames = [reference_picture(60, 40, seed) for seed in range(3)]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert count_pages(pool, data) == 1
    draw(pool, data)
    with pytest.raises(PictureRefused, match="no page 2"):
        draw(pool, data, PageView(1))


@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_page_by_itself_is_drawn_as_in_its_file(pool: WorkerPool, page: int) -> None:
    turned = text_page("TURNED", entries="/Rotate 90")
    data = pdf(text_page("HELLO"), turned, picture_page(PICTURE, entries="/CropBox [100 50 400 350]"))
    alone = extract_page(pool, data, page)
    assert count_pages(pool, alone) == 1
    assert np.array_equal(draw(pool, alone).pixels, draw(pool, data, PageView(page)).pixels)


def test_a_page_of_an_encrypted_file_that_opens_without_a_password(pool: WorkerPool) -> None:
    data = without_password(pdf(text_page("HELLO")))
    alone = extract_page(pool, data, 0)
    assert b"/Encrypt" not in alone
    assert np.array_equal(draw(pool, alone).pixels, draw(pool, data).pixels)


def test_layers_that_a_file_hides_stay_hidden_on_a_page_by_itself(pool: WorkerPool) -> None:
    layer = "/Properties << /L 6 0 R >>"
    page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] "
    data = file_of(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R /OCProperties << /OCGs [6 0 R] /D << /OFF [6 0 R] >> >> >>",
            2: b"<< /Type /Pages /Count 3 /Kids [5 0 R 3 0 R 5 0 R] >>",
            3: f"{page} /Contents 4 0 R /Resources << {layer} >> >>".encode(),
            4: stream(b"/OC /L BDC 0 0 100 100 re f EMC"),
            5: f"{page} >>".encode(),
            6: b"<< /Type /OCG /Name (hidden) >>",
        }
    )
    alone = extract_page(pool, data, 1)
    assert count_pages(pool, alone) == 1
    assert (draw(pool, alone).pixels == 255).all()
    shown = data.replace(b"/OFF [6 0 R]", b"/OFF [     ]")
    assert (draw(pool, extract_page(pool, shown, 1)).pixels == 0).any()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "I;16"])
def test_a_frame_by_itself_is_drawn_as_in_its_file(pool: WorkerPool, mode: str) -> None:
    frames = [reference_picture(300, 200, seed).convert(mode) for seed in range(3)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:], dpi=(300, 300))
    alone, whole = draw(pool, extract_page(pool, data, 2)), draw(pool, data, PageView(2))
    assert np.array_equal(alone.pixels, whole.pixels)
    assert alone.dpi == pytest.approx(whole.dpi, abs=0.01) == pytest.approx(300, abs=0.01)


def test_a_page_that_is_not_there_or_too_large_is_refused(pool: WorkerPool) -> None:
    data = pdf(text_page("HELLO"))
    with pytest.raises(PictureRefused, match="no page 2, only 1"):
        extract_page(pool, data, 1)
    with pytest.raises(PictureRefused, match=r"page 1 alone is larger than 0\.0001 MB"):
        asyncio.run(pool.extract_page(data, 0, max_bytes=100))


@pytest.mark.parametrize("region", [(0.5, 0, 0.5, 1), (0, 0.6, 1, 0.5), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)])
def test_a_part_that_is_none_is_refused(pool: WorkerPool, region: tuple[float, float, float, float]) -> None:
    for data in (pdf(PICTURE), encoded(PICTURE)):
        with pytest.raises(PictureRefused, match="part"):
            draw(pool, data, PageView(region=Region(*region)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encrypted(pdf(PICTURE)), "encrypted; remove its password"),
        (pdf(PICTURE)[:200], "damaged"),
        (b"%PDF-1.7\n", "damaged"),
        (pdf(), "no pages"),
    ],
)
def test_a_pdf_that_cannot_be_opened_says_what_to_do(pool: WorkerPool, data: bytes, message: str) -> None:
    with pytest.raises(PictureRefused, match=message):
        count_pages(pool, data)
    with pytest.raises(PictureRefused, match=message):
        draw(pool, data)
