"""A picture as the model takes it: a canvas of whole crops, a byte a colour. Pillow only, no torch.

Canvases are drawn where pictures are decoded, with Pillow's bilinear filter, the one that the model was
trained with. All that follows (the global view, the cut into crops, the normalisation) is plain tensor
arithmetic on the engine's device, see `hd`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from phi_vision.model.geometry import CROP_PX, CropGrid, canvas_tokens, crop_grid
from phi_vision.spec import PHI_3_5_VISION

if TYPE_CHECKING:
    import numpy as np

MAX_CANVAS_BYTES = PHI_3_5_VISION.max_num_crops * CROP_PX**2 * 3


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture on its canvas, and what is known of it."""

    pixels: np.ndarray = field(repr=False)  # uint8, (3, H, W), H and W multiples of 336
    width: int  # pixels of the upright picture, or of the part seen; of a PDF page at full crops
    height: int
    num_crops: int  # the most that it was allowed
    key: str  # equal for equal views of equal files at equal `num_crops`
    dpi: float | None = None  # resolution of `width` x `height`, where it is known

    @property
    def num_image_tokens(self) -> int:
        """Tokens that stand for it in a prompt."""
        _, height, width = self.pixels.shape
        return canvas_tokens(height // CROP_PX, width // CROP_PX)


def draw_canvas(
    image: Image.Image, num_crops: int, framed_size: tuple[int, int] | None = None
) -> Image.Image:
    """Resize `image` onto its crop grid and pad it with white.

    Args:
        image: any mode; converted to RGB.
        num_crops: the most crops that the canvas may have.
        framed_size: with margins that count as part of it; None for none.

    Returns:
        RGB; width and height are multiples of 336.
    """
    width, height = framed_size or image.size
    grid = crop_grid(width, height, num_crops)
    across, down = size_on_grid(image.size, (width, height), grid)
    # The original turns portrait pictures on their side first. Bilinear resizing treats the axes
    # alike but filters columns before rows, so the turn is kept for equal rounding.
    portrait = width < height
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if portrait:
        turned = rgb.transpose(Image.Transpose.TRANSPOSE)
        resized = turned.resize((down, across), Image.Resampling.BILINEAR)
        resized = resized.transpose(Image.Transpose.TRANSPOSE)
    else:
        resized = rgb.resize((across, down), Image.Resampling.BILINEAR)
    return pad(resized, grid)


def size_on_grid(size: tuple[int, int], framed_size: tuple[int, int], grid: CropGrid) -> tuple[int, int]:
    """How large a picture is on the grid that it fills with its margins."""
    width, height = (side / framed for side, framed in zip(size, framed_size, strict=True))
    return max(1, round(grid.resized_width * width)), max(1, round(grid.resized_height * height))


def pad(resized: Image.Image, grid: CropGrid) -> Image.Image:
    """A picture in the middle of a white canvas; `CropGrid.left` and `top` say the same without margins."""
    canvas = Image.new("RGB", (grid.width, grid.height), "white")
    canvas.paste(resized, ((grid.width - resized.width) // 2, (grid.height - resized.height) // 2))
    return canvas


def planes(canvas: Image.Image) -> Iterator[bytes]:
    """The red, green and blue bytes of a drawn canvas, row by row: `Canvas.pixels` in three parts."""
    for band in "RGB":
        yield canvas.tobytes("raw", band)


def resize_and_pad(image: Image.Image, num_crops: int) -> np.ndarray:
    """`draw_canvas` as an array: uint8, (3, H, W)."""
    import numpy as np

    canvas = draw_canvas(image, num_crops)
    pixels = np.frombuffer(bytearray().join(planes(canvas)), np.uint8)
    return pixels.reshape(3, canvas.height, canvas.width)
