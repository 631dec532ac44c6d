"""Layout from pixels: blank pages, print sizes, columns and tiles of drawn pages whose truth is known."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phi_vision.documents.ink import find_marks
from phi_vision.documents.layout import MIN_X_HEIGHT_PX, Layout, page_of
from phi_vision.media.pages import shown
from phi_vision.media.view import Region
from phi_vision.model.canvas import Canvas, resize_and_pad
from phi_vision.model.geometry import CROP_PX
from PIL import Image, ImageDraw, ImageFont

from tests.support.documents import DIRT, Page, draw, levelled, scanned, turned

SCANS = Path(__file__).parents[1] / "images" / "scans"
SIZE = (840, 1188)  # A4 at 100 dots an inch


def grey_of_page(image: Image.Image, num_crops: int = 16) -> np.ndarray:
    canvas = Canvas(resize_and_pad(image, num_crops), image.width, image.height, num_crops, "key")
    return page_of(canvas)


def drawn(kind: str, seed: int, em: float, **scan: Any) -> Page:
    rng = Random(seed)
    return scanned(draw(kind, rng, SIZE, em), rng, **scan)


def lines_in(page: Page, region: Region) -> set[int]:
    """The lines of which a region holds ink."""
    assert page.labels is not None
    height, width = page.labels.shape
    rows = slice(round(region.top * height), round(region.bottom * height))
    part = page.labels[rows, round(region.left * width) : round(region.right * width)]
    return set(np.unique(part).tolist()) - {0}


def regions(grey: np.ndarray, max_tiles: int) -> list[Region]:
    """Of the tiles."""
    return [view.region for view in Layout(grey).tiles(max_tiles, 16) if view.region is not None]


def overlap(first: Region, second: Region) -> bool:
    across = min(first.right, second.right) - max(first.left, second.left)
    return across > 1e-9 and min(first.bottom, second.bottom) - max(first.top, second.top) > 1e-9


def test_a_page_is_cut_out_of_its_padding() -> None:
    image = Image.new("RGB", (1000, 1400), "grey")
    grey = grey_of_page(image)
    assert grey.shape == (1344, 960)
    assert (grey == 128).all()


@pytest.mark.parametrize("dirt", ["holes", "bleed", "pencil", "fold"])
def test_a_dirty_blank_page_is_blank(dirt: str) -> None:
    page = drawn("blank", 1, 20, dirt=(dirt,), noise=5, skew_degrees=1, jpeg_quality=50)
    assert Layout(grey_of_page(page.image)).is_blank


@pytest.mark.parametrize("paper", [(255, 255, 255), (170, 170, 175), (235, 220, 170)])
@pytest.mark.parametrize("inverted", [False, True])
def test_paper_of_any_colour_is_blank_and_a_line_on_it_is_not(
    paper: tuple[int, int, int], inverted: bool
) -> None:
    scan: dict[str, Any] = {"paper": paper, "inverted": inverted, "noise": 5}
    assert Layout(grey_of_page(drawn("blank", 1, 20, **scan).image)).is_blank
    for seed in range(2):
        line = drawn("one_line", seed, 16, dirt=tuple(DIRT), **scan)
        assert not Layout(grey_of_page(line.image)).is_blank, line.text


@pytest.mark.parametrize("text", ["7", "- 1 -", "i", "Page 3"])
def test_a_page_number_is_not_blank(text: str) -> None:
    image = Image.new("L", SIZE, 255)
    ImageDraw.Draw(image).text((420, 1150), text, 60, ImageFont.load_default(13))
    assert not Layout(grey_of_page(image)).is_blank


def test_pictures_and_frames_are_not_blank() -> None:
    scene = Image.open(SCANS.parent / "scene.jpg")
    assert not Layout(grey_of_page(scene)).is_blank
    assert not Layout(grey_of_page(Image.open(SCANS.parent / "shapes.png"), 4)).is_blank


@pytest.mark.parametrize("name", ["page.png", "text.png"])
def test_real_scans_are_read(name: str) -> None:
    found = Layout(grey_of_page(Image.open(SCANS / name)))
    assert not found.is_blank
    assert found.x_height_px is not None and found.x_height_px > MIN_X_HEIGHT_PX
    assert found.tiles(8, 16) == []


def test_the_real_page_has_lines_across_of_the_right_size() -> None:
    found = Layout(grey_of_page(Image.open(SCANS / "page.png")))
    assert found.x_height_px == pytest.approx(
        7 * 5 * 336 / 384, rel=0.15
    )  # 7 pixels in the file, 5 crops across
    assert not found.text_axis.vertical


@pytest.mark.parametrize("kind", ["prose", "capitals", "columns", "contents"])
@pytest.mark.parametrize(("em", "skew"), [(10, -3), (16, 1.5), (30, 3)])
def test_x_height_of_skewed_noisy_scans(kind: str, em: float, skew: float) -> None:
    page = drawn(kind, 5, em, skew_degrees=skew, noise=6, dirt=("specks", "holes"))
    grey = grey_of_page(page.image)
    assert page.x_height_px is not None
    expected = page.x_height_px * grey.shape[1] / page.image.width
    assert Layout(grey).x_height_px == pytest.approx(expected, rel=0.25)


def test_nothing_is_found_on_a_blank_page() -> None:
    found = Layout(np.full((1344, 960), 240, np.uint8))
    assert found.is_blank and found.ink_share == 0
    assert found.x_height_px is None
    assert found.columns == [] and found.tiles(8, 16) == []
    assert found.text_axis.certainty == 0


@pytest.mark.parametrize("shape", [(1, 1), (336, 1), (1, 336), (20, 30), (33, 336)])
def test_slivers_are_no_trouble(shape: tuple[int, int]) -> None:
    for level in (0, 255):
        found = Layout(np.full(shape, level, np.uint8))
        assert found.x_height_px is None and found.tiles(4, 16) == [] and found.is_blank


@pytest.mark.parametrize("kind", ["prose", "capitals", "columns", "contents", "table"])
def test_the_axis_of_text(kind: str) -> None:
    page = drawn(kind, 6, 14, skew_degrees=2, noise=4)
    for rotation in (0, 90, 180, 270):
        axis = Layout(grey_of_page(turned(page, rotation).image)).text_axis
        assert axis.vertical == (rotation in (90, 270))
        assert axis.certainty > 0.1


@pytest.mark.parametrize("em", [9, 11, 14])  # the heading's round letters are as large as punch holes
def test_columns_are_kept_apart_under_their_heading(em: float) -> None:
    page = drawn("columns", 7, em)
    blocks = Layout(grey_of_page(page.image)).columns
    assert len(blocks) == 3
    assert [len(lines_in(page, block)) for block in blocks] == [
        1,
        *(sum(line.column == column for line in page.lines[1:]) for column in (0, 1)),
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_punch_holes_beside_print_belong_to_no_column(seed: int) -> None:
    [clean] = Layout(grey_of_page(drawn("prose", seed, 14).image)).columns
    [punched] = Layout(grey_of_page(drawn("prose", seed, 14, dirt=("holes",)).image)).columns
    assert punched.left == pytest.approx(clean.left, abs=0.01)


@pytest.mark.parametrize("kind", ["prose", "capitals", "contents", "table"])
def test_what_has_no_gutter_is_one_block(kind: str) -> None:
    assert len(Layout(grey_of_page(drawn(kind, 8, 14).image)).columns) == 1


@pytest.mark.parametrize("kind", ["prose", "capitals", "columns", "contents", "table"])
@pytest.mark.parametrize("skew", [-3, -0.5, 0, 1])
def test_the_slant_of_lines_up_and_down(kind: str, skew: float) -> None:
    page = drawn(kind, 3, 12, skew_degrees=skew, noise=4)
    expected = pytest.approx(-math.tan(math.radians(skew)), abs=0.003)
    assert Layout(grey_of_page(page.image)).slant == expected
    assert Layout(grey_of_page(turned(page, 180).image)).slant == expected


@pytest.mark.parametrize("name", ["scene.jpg", "shapes.png", "scans/page.png", "scans/text.png"])
def test_what_is_level_or_has_no_lines_does_not_slant(name: str) -> None:
    assert abs(Layout(grey_of_page(Image.open(SCANS.parent / name))).slant) < 0.01


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["prose", "capitals", "columns", "contents", "table"]),
    seed=st.integers(0, 99),
    em=st.integers(7, 14),
    skew=st.sampled_from([0.0, 0.0, -1.0, 3.0]),
    max_tiles=st.integers(2, 12),
)
def test_tiles_of_a_level_page_lose_nothing_and_part_no_line(
    kind: str, seed: int, em: int, skew: float, max_tiles: int
) -> None:
    page = drawn(kind, seed, em, skew_degrees=skew)
    page = levelled(page, Layout(grey_of_page(page.image)).slant)
    found = regions(grey_of_page(page.image), max_tiles)
    assert len(found) <= max_tiles
    if not found:
        return
    assert page.labels is not None
    covered = np.zeros(page.labels.shape, bool)
    width, height = page.image.size
    for region in found:
        rows = slice(round(region.top * height), round(region.bottom * height))
        covered[rows, round(region.left * width) : round(region.right * width)] = True
    assert not (~covered & (page.labels > 0)).any()
    assert not any(overlap(a, b) for i, a in enumerate(found) for b in found[:i])
    held = [lines_in(page, region) for region in found]
    if skew == 0:
        assert sum(map(len, held)) == len(page.lines)  # every line in one tile, whole
        if kind != "columns":
            order = [line for lines in held for line in sorted(lines)]
            assert order == sorted(order)


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_tiles_show_print_as_large_as_wanted_on_square_grids(num_crops: int) -> None:
    page = drawn("prose", 9, 9)
    grey = grey_of_page(page.image, num_crops)
    layout = Layout(grey)
    assert layout.x_height_px is not None
    found = layout.tiles(16, num_crops, 1.5 * layout.x_height_px)
    assert 2 <= len(found) <= 6
    for view in found:
        assert view.frame is not None and view.frame.aspect == 1
        width, _ = view.frame.size(*shown(page.image, view).size)
        zoom = math.isqrt(num_crops) * CROP_PX / width  # pixels of the canvas for one of the page
        assert zoom == pytest.approx(1.5 * grey.shape[1] / page.image.width, rel=0.05)


def test_a_block_of_one_line_is_shown_no_larger_than_others() -> None:
    page = drawn("columns", 7, 9)
    layout = Layout(grey_of_page(page.image))
    assert layout.x_height_px is not None
    found = layout.tiles(16, 16, 1.5 * layout.x_height_px)
    assert [len(lines_in(page, view.region)) for view in found if view.region].count(1) == 1  # the heading
    widths = [view.frame.size(*shown(page.image, view).size)[0] for view in found if view.frame]
    assert widths == pytest.approx([widths[0]] * len(found), rel=0.02)


def test_a_wide_column_of_small_print_lies_on_a_grid_as_flat_as_its_print_needs() -> None:
    page = draw("prose", Random(9), (1600, 1000), 9)
    layout = Layout(grey_of_page(page.image))
    flat = layout.tiles(16, 16)
    assert {view.frame.aspect for view in flat if view.frame} == {4}  # 8 x 2 crops
    assert sum(len(lines_in(page, view.region)) for view in flat if view.region) == len(page.lines)


def test_large_print_is_not_cut() -> None:
    assert regions(grey_of_page(drawn("prose", 9, 24).image), 16) == []


def test_marks_are_pieces_that_touch() -> None:
    rng = np.random.default_rng(1)
    for share in (0.1, 0.4, 0.6):
        mask = rng.random((40, 50)) < share
        labels, marks = find_marks(mask)
        assert ((labels >= 0) == mask).all()
        assert len(marks) == _count_by_filling(mask)
        assert marks.area.sum() == mask.sum()


def _count_by_filling(mask: np.ndarray) -> int:
    left = {tuple(at) for at in np.argwhere(mask).tolist()}
    count = 0
    while left:
        count, reached = count + 1, [left.pop()]
        while reached:
            y, x = reached.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            reached += near
    return count
