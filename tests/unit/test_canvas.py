"""Pictures on their canvases: sizes, padding, and how many crops fill one."""

import numpy as np
import pytest
from phi_vision.model.canvas import MAX_CANVAS_BYTES, Canvas, draw_canvas, planes, resize_and_pad
from phi_vision.model.geometry import crop_grid, native_num_crops, num_image_tokens
from PIL import Image

from tests.support.pictures import reference_picture


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (20000, 3), (337, 335)])
@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_every_size_fits_its_grid(size: tuple[int, int], num_crops: int) -> None:
    grid = crop_grid(*size, num_crops)
    assert 1 <= grid.rows * grid.columns <= num_crops
    assert grid.left >= 0 and grid.left + grid.resized_width <= grid.width
    assert grid.top >= 0 and grid.top + grid.resized_height <= grid.height
    canvas = resize_and_pad(Image.new("RGB", size, "navy"), num_crops)
    assert canvas.shape == (3, grid.height, grid.width) and canvas.nbytes <= MAX_CANVAS_BYTES
    assert canvas[0].min() == 0  # navy is somewhere: the picture did not vanish


def test_padding_is_white_on_both_sides() -> None:
    canvas = resize_and_pad(Image.new("RGB", (500, 100), "black"), 4)
    assert canvas[:, 0].min() == 255 and canvas[:, -1].min() == 255
    assert canvas[:, canvas.shape[1] // 2].max() == 0


@pytest.mark.parametrize("bad", [(0, 10, 4), (10, 0, 4), (10, 10, 0)])
def test_nonsense_is_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        crop_grid(*bad)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((336, 336), 1),
        ((50, 50), 1),
        ((672, 672), 4),
        ((800, 600), 4),
        ((1344, 1344), 16),
        ((4000, 3000), 12),
    ],
)
def test_native_crops_never_enlarge(size: tuple[int, int], expected: int) -> None:
    assert native_num_crops(*size, limit=16) == expected
    if min(size) >= 336:
        assert crop_grid(*size, expected).resized_width <= size[0]


def test_the_planes_are_the_colours_row_by_row() -> None:
    canvas = draw_canvas(reference_picture(500, 300, seed=3), 4)
    red, green, blue = (np.frombuffer(plane, np.uint8) for plane in planes(canvas))
    interleaved = np.stack([red, green, blue], axis=-1).reshape(canvas.height, canvas.width, 3)
    assert np.array_equal(interleaved, np.asarray(canvas))


def test_a_canvas_knows_what_it_costs() -> None:
    pixels = resize_and_pad(reference_picture(800, 600, seed=1), 16)
    canvas = Canvas(pixels, 800, 600, 16, "key")
    assert canvas.num_image_tokens == num_image_tokens(800, 600, 16) == 1921
    assert "array" not in repr(canvas)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_are_converted(mode: str) -> None:
    picture = reference_picture(64, 48, seed=2).convert(mode)
    assert np.array_equal(resize_and_pad(picture, 1), resize_and_pad(picture.convert("RGB"), 1))
