"""Our HD transform against values computed by the model's own image processor."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from phi_vision.model.canvas import resize_and_pad
from phi_vision.model.geometry import num_image_tokens
from phi_vision.model.hd import normalization, tile_canvas

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
    canvas = torch.from_numpy(resize_and_pad(picture, case["num_crops"]))  # (3, H, W)
    assert canvas.dtype == torch.uint8
    assert list(canvas.shape[1:]) == case["image_size"]
    assert num_image_tokens(case["width"], case["height"], case["num_crops"]) == case["num_image_tokens"]
    seen = tile_canvas(canvas)  # (1 + crops, 3, 336, 336)
    assert seen.shape == (case["crops"], 3, 336, 336)
    sample = seen.flatten()[case["sample_index"]]
    assert (sample - torch.tensor(case["sample_value"])).abs().max() < PIXEL_TOLERANCE
    means = seen.mean(dim=(1, 2, 3))
    assert (means - torch.tensor(case["crop_mean"])).abs().max() < PIXEL_TOLERANCE


def test_constants_that_are_at_hand_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor made from numbers is a copy to the GPU that everything waits for."""
    canvas = torch.from_numpy(resize_and_pad(reference_picture(800, 600, 1), 4))
    expected, constants = tile_canvas(canvas), normalization()
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(tile_canvas(canvas, constants), expected)


def test_the_constants_are_exact_where_the_model_is_in_bf16() -> None:
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)  # as vLLM does while it builds a model
        built = normalization()
    finally:
        torch.set_default_dtype(usual)
    assert built.dtype == torch.float32 and torch.equal(built, normalization())
