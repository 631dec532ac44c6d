"""The arithmetic of Phi-3.5-vision's HD transform: sizes and token counts, no pixels.

A picture is scaled so that it fills a grid of at most `num_crops` squares of 336 pixels, padded
to whole squares, and seen twice: cut into the squares, and once as a whole (the global view).
Source: the model's published processor, `processing_phi3_v.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CROP_PX = 336  # side of one crop; CLIP ViT-L/14-336 sees 24 x 24 patches of 14 pixels
CROP_TOKENS = 144  # 24 x 24 patches, merged 2 x 2
ROWS_PER_CROP = 12  # rows of merged tokens in a crop, each ended by a separator token


@dataclass(frozen=True)
class CropGrid:
    """How a picture lies on the canvas of whole crops. All sizes in pixels unless named otherwise."""

    rows: int  # crops
    columns: int  # crops
    resized_width: int
    resized_height: int
    left: int  # white padding before the picture
    top: int

    @property
    def width(self) -> int:
        """Canvas width, a multiple of 336."""
        return self.columns * CROP_PX

    @property
    def height(self) -> int:
        """Canvas height, a multiple of 336."""
        return self.rows * CROP_PX

    @property
    def num_image_tokens(self) -> int:
        """Tokens of sub-crops, separators and the global view together."""
        return canvas_tokens(self.rows, self.columns)


def canvas_tokens(rows: int, columns: int) -> int:
    """Tokens of a canvas of `rows` x `columns` crops.

    Crops and the global view give 144 each; every token row ends with one separator
    (12 a crop row, 12 for the global view), and one more stands between the two.
    """
    return (rows * columns + 1) * CROP_TOKENS + 1 + (rows + 1) * ROWS_PER_CROP


def crop_grid(width: int, height: int, num_crops: int) -> CropGrid:
    """Lay a `width` x `height` picture (pixels) on at most `num_crops` crops.

    The longer side gets the most crops for which the grid still has at most `num_crops`;
    small pictures are enlarged too. A side that would vanish keeps one pixel (the original
    fails on such slivers).

    Raises:
        ValueError: a size or `num_crops` below one.
    """
    if width < 1 or height < 1 or num_crops < 1:
        raise ValueError(f"width, height and num_crops must be positive: {width}, {height}, {num_crops}")
    long, short = max(width, height), min(width, height)
    ratio = long / short
    along = 1
    while (along + 1) * math.ceil((along + 1) / ratio) <= num_crops:
        along += 1
    long_px = along * CROP_PX
    short_px = max(1, int(long_px / ratio))
    across = math.ceil(short_px / CROP_PX)
    pad_before = int((across * CROP_PX - short_px) / 2)
    if width >= height:
        return CropGrid(across, along, long_px, short_px, 0, pad_before)
    return CropGrid(along, across, short_px, long_px, pad_before, 0)


def num_image_tokens(width: int, height: int, num_crops: int) -> int:
    """Prompt tokens that a `width` x `height` picture costs at `num_crops`."""
    return crop_grid(width, height, num_crops).num_image_tokens


def native_num_crops(width: int, height: int, limit: int) -> int:
    """The fewest crops, up to `limit`, that show every pixel the picture has without enlarging it.

    At least one: a picture smaller than a crop is still enlarged to one.
    """
    best = 1
    for num_crops in range(2, limit + 1):
        grid = crop_grid(width, height, num_crops)
        if grid.resized_width > width or grid.resized_height > height:
            break
        if grid != crop_grid(width, height, best):
            best = num_crops
    return best
