"""The HD transform: one picture to a uint8 canvas, a canvas to the views that the tower sees.

The two halves run in different places. `resize_and_pad` runs where the picture is decoded and needs
Pillow's bilinear filter, the one the model was trained with, for equal pixels. `views` is plain
tensor arithmetic and runs on the engine's device: what crosses between them is the canvas, a byte
a pixel, instead of `num_crops + 1` float crops.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from phi_vision.model.geometry import CROP_PX, crop_grid, num_image_tokens

__all__ = ["normalization", "normalize", "num_image_tokens", "overview", "resize_and_pad", "views"]

# CLIP's normalisation of RGB in 0..1.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_and_pad(image: Image.Image, num_crops: int) -> torch.Tensor:
    """Resize `image` onto its crop grid and pad it with white.

    Args:
        image: any mode; converted to RGB.
        num_crops: the most crops that the canvas may have.

    Returns:
        uint8, (3, H, W), H and W multiples of 336.
    """
    grid = crop_grid(image.width, image.height, num_crops)
    # The original turns portrait pictures on their side first. Bilinear resizing treats the axes
    # alike but filters columns before rows, so the turn is kept for equal rounding.
    portrait = image.width < image.height
    rgb = image.convert("RGB")
    if portrait:
        rgb = rgb.transpose(Image.Transpose.TRANSPOSE)
        size = (grid.resized_height, grid.resized_width)
    else:
        size = (grid.resized_width, grid.resized_height)
    pixels = np.asarray(rgb.resize(size, Image.Resampling.BILINEAR))  # (h, w, 3)
    if portrait:
        pixels = pixels.transpose(1, 0, 2)
    canvas = np.full((3, grid.height, grid.width), 255, dtype=np.uint8)
    rows = slice(grid.top, grid.top + grid.resized_height)
    columns = slice(grid.left, grid.left + grid.resized_width)
    canvas[:, rows, columns] = pixels.transpose(2, 0, 1)
    return torch.from_numpy(canvas)


def normalization() -> torch.Tensor:
    """Mean and deviation of CLIP's normalisation, float32, (2, 3, 1, 1)."""
    return torch.tensor((_MEAN, _STD), dtype=torch.float32).view(2, 3, 1, 1)


def overview(canvas: torch.Tensor, mean_std: torch.Tensor | None = None) -> torch.Tensor:
    """The global view: the whole canvas squeezed into one crop.

    Args:
        canvas: uint8, (3, H, W), H and W multiples of 336, on any device.
        mean_std: `normalization()` on that device, to spare copying it there for each picture.

    Returns:
        float32, (3, 336, 336), normalised.
    """
    pixels = canvas.float()[None]
    if canvas.shape[1:] != (CROP_PX, CROP_PX):  # resizing to its own size changes nothing
        pixels = torch.nn.functional.interpolate(pixels, size=(CROP_PX, CROP_PX), mode="bicubic")
    return normalize(pixels[0], mean_std)


def views(canvas: torch.Tensor, mean_std: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise a canvas and cut it into what the vision tower sees.

    Args:
        canvas: uint8, (3, H, W), H and W multiples of 336, on any device.
        mean_std: as in `overview`.

    Returns:
        float32, (1 + crops, 3, 336, 336), the global view first, then the crops row by row.
    """
    rows, columns = canvas.shape[1] // CROP_PX, canvas.shape[2] // CROP_PX
    crops = (
        normalize(canvas.float(), mean_std)
        .view(3, rows, CROP_PX, columns, CROP_PX)
        .permute(1, 3, 0, 2, 4)
        .reshape(rows * columns, 3, CROP_PX, CROP_PX)
    )
    return torch.cat([overview(canvas, mean_std)[None], crops])


def normalize(pixels: torch.Tensor, mean_std: torch.Tensor | None = None) -> torch.Tensor:
    """CLIP's normalisation of RGB in 0..255, (3, H, W); `mean_std` as in `overview`."""
    mean, std = normalization().to(pixels.device) if mean_std is None else mean_std
    return (pixels / 255 - mean) / std
