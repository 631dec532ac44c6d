"""Our HD transform against values computed by the model's own image processor."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from phi_vision.model.geometry import crop_grid, native_num_crops
from phi_vision.model.hd import normalization, num_image_tokens, resize_and_pad, views
from PIL import Image

from tests.support.pictures import reference_picture

CASES = json.loads((Path(__file__).parents[1] / "data" / "image_processor.json").read_text())["cases"]
PIXEL_TOLERANCE = 2e-4


def case_id(case: dict[str, Any]) -> str:
    return f"{case['width']}x{case['height']}-{case['num_crops']}"


def test_the_reference_has_odd_shapes() -> None:
    ratios = {case["width"] / case["height"] for case in CASES}
    assert min(ratios) < 0.1 and max(ratios) > 10 and 1.0 in ratios


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_the_original_processor(case: dict[str, Any]) -> None:
    picture = reference_picture(case["width"], case["height"], case["seed"])
    canvas = resize_and_pad(picture, case["num_crops"])  # (3, H, W)
    assert canvas.dtype == torch.uint8
    assert list(canvas.shape[1:]) == case["image_size"]
    assert num_image_tokens(case["width"], case["height"], case["num_crops"]) == case["num_image_tokens"]
    seen = views(canvas)  # (1 + crops, 3, 336, 336)
    assert seen.shape == (case["crops"], 3, 336, 336)
    sample = seen.flatten()[case["sample_index"]]
    assert (sample - torch.tensor(case["sample_value"])).abs().max() < PIXEL_TOLERANCE
    means = seen.mean(dim=(1, 2, 3))
    assert (means - torch.tensor(case["crop_mean"])).abs().max() < PIXEL_TOLERANCE


def test_constants_that_are_at_hand_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor made from numbers is a copy to the GPU that everything waits for."""
    canvas = resize_and_pad(reference_picture(800, 600, 1), 4)
    expected, constants = views(canvas), normalization()
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(views(canvas, constants), expected)


def test_the_constants_are_exact_where_the_model_is_in_bf16() -> None:
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)  # as vLLM does while it builds a model
        built = normalization()
    finally:
        torch.set_default_dtype(usual)
    assert built.dtype == torch.float32 and torch.equal(built, normalization())


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (20000, 3), (337, 335)])
@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_every_size_fits_its_grid(size: tuple[int, int], num_crops: int) -> None:
    grid = crop_grid(*size, num_crops)
    assert 1 <= grid.rows * grid.columns <= num_crops
    assert grid.left >= 0 and grid.left + grid.resized_width <= grid.width
    assert grid.top >= 0 and grid.top + grid.resized_height <= grid.height
    canvas = resize_and_pad(Image.new("RGB", size, "navy"), num_crops)
    assert canvas.shape == (3, grid.height, grid.width)
    assert canvas[0].min() == 0  # navy is somewhere: the picture did not vanish


def test_padding_is_white_on_both_sides() -> None:
    canvas = resize_and_pad(Image.new("RGB", (500, 100), "black"), 4)
    assert canvas[:, 0].unique().tolist() == [255] and canvas[:, -1].unique().tolist() == [255]
    assert canvas[:, canvas.shape[1] // 2].unique().tolist() == [0]


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
