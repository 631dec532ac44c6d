"""What the vision tower sees of a canvas: the whole in one crop, and its crops. On the engine's device."""

from __future__ import annotations

import torch

from phi_vision.model.geometry import CROP_PX

# CLIP's normalisation of RGB in 0..1.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def normalization() -> torch.Tensor:
    """Mean and deviation of CLIP's normalisation, float32, (2, 3, 1, 1)."""
    return torch.tensor((_MEAN, _STD), dtype=torch.float32).view(2, 3, 1, 1)


def normalize(pixels: torch.Tensor, mean_std: torch.Tensor | None = None) -> torch.Tensor:
    """CLIP's normalisation of RGB in 0..255, (3, H, W); `mean_std` as in `global_view`."""
    mean, std = normalization().to(pixels.device) if mean_std is None else mean_std
    return (pixels / 255 - mean) / std


def global_view(canvas: torch.Tensor, mean_std: torch.Tensor | None = None) -> torch.Tensor:
    """The whole canvas squeezed into one crop.

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


def tile_canvas(canvas: torch.Tensor, mean_std: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise a canvas and cut it into what the vision tower sees.

    Args:
        canvas: uint8, (3, H, W), H and W multiples of 336, on any device.
        mean_std: as in `global_view`.

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
    return torch.cat([global_view(canvas, mean_std)[None], crops])
