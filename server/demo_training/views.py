"""Drawings as the tower sees them: cut into views as the server does it, with what each cell shows."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from phi_vision.model.canvas import resize_and_pad
from phi_vision.model.geometry import CROP_PX, crop_grid
from phi_vision.model.hd import global_view, normalize, tile_canvas
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from demo_training.labels import CELLS, IGNORED, Frame, glyph_labels, mark_labels
from demo_training.pictures import Drawing
from demo_training.tower import SIDE

PAGE_SIDE = 560  # of a page of `windows`, in pixels of a view
_BLANK_RANGE = 0.1  # of normalised pixels: below it a cell is plain
_PADDING = (255, 255, 255)
_DULL_CROPS = 1  # crops in which nothing can be read that the text model is shown
_DULL_CELLS = 12  # cells of such a crop


@dataclass
class Views:
    """A picture as the tower sees it: the global view first, then the crops row by row.

    With one crop the global view is the crop, and stands here once.
    """

    patches: np.ndarray  # float16, (views, 24, 24, 588)
    busy: np.ndarray  # bool, (views, 144): cells that show more than background
    glyphs: np.ndarray  # int64, (views, 144, GLYPH_SLOTS)
    marks: np.ndarray  # int64, (views, 144, 2)
    frames: list[Frame]
    rows: int = 1  # crops
    columns: int = 1

    def reading_view(self, em_px: float) -> list[int]:
        """Views in which print of this size in the picture is read: the global one, else crops."""
        if not em_px or self.frames[0].reads(em_px):
            return [0]
        return [view for view, frame in enumerate(self.frames) if frame.reads(em_px)]


def see(drawing: Drawing, num_crops: int, thin: Random | None = None) -> Views:
    """Cut a drawing into views exactly as the server does, and label what they show.

    Args:
        drawing: the picture and the truth about it.
        num_crops: at most so many crops.
        thin: chooses the few crops, and cells of them, that are left of crops in which nothing can be read.
    """
    image = drawing.image
    canvas = torch.from_numpy(resize_and_pad(image, num_crops))  # (3, H, W)
    grid = crop_grid(image.width, image.height, num_crops)
    alone = grid.rows == grid.columns == 1
    seen = global_view(canvas)[None] if alone else tile_canvas(canvas)  # (views, 3, 336, 336)
    scale = grid.resized_width / image.width, grid.resized_height / image.height
    squeeze = CROP_PX / grid.width, CROP_PX / grid.height
    frames = [
        Frame(scale[0] * squeeze[0], scale[1] * squeeze[1], grid.left * squeeze[0], grid.top * squeeze[1])
    ]
    for row in range(grid.rows if len(seen) > 1 else 0):
        top = grid.top - row * CROP_PX
        frames += [Frame(*scale, grid.left - column * CROP_PX, top) for column in range(grid.columns)]
    background: Any = image.getpixel((0, 0))  # RGB
    seen_as = _views(seen, frames, drawing, (background, _PADDING))
    seen_as.marks[1:] = IGNORED  # a part of a shape does not tell which it is
    seen_as.rows, seen_as.columns = grid.rows, grid.columns
    if thin is not None:
        dull = [v for v in range(1, len(seen)) if not (seen_as.glyphs[v] > 0).any() and seen_as.busy[v].any()]
        thin.shuffle(dull)
        for view in dull[:_DULL_CROPS]:
            spare = np.flatnonzero(seen_as.busy[view]).tolist()
            thin.shuffle(spare)
            seen_as.busy[view, spare[_DULL_CELLS:]] = False
        for view in dull[_DULL_CROPS:]:
            seen_as.busy[view] = False
    return seen_as


def windows(rng: Random, page: Drawing, grid: int, count: int) -> Views:
    """`count` random windows of one view's size on a square page, each as a view that stands alone.

    Args:
        rng: chooses the places.
        page: of `Drawing.image` in grey, larger than a view.
        grid: crops along a side of a picture whose global view looks like this; one crop itself with 1.
        count: of the windows.
    """
    side = PAGE_SIDE
    canvas = page.image.resize((side * grid,) * 2, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(canvas)).float()[None, None]
    if grid > 1:
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic")
    corners = [(rng.randint(0, side - CROP_PX), rng.randint(0, side - CROP_PX)) for _ in range(count)]
    cut = torch.cat([pixels[0, :, y : y + CROP_PX, x : x + CROP_PX] for x, y in corners])  # (count, 336, 336)
    seen = normalize(cut[:, None].expand(-1, 3, -1, -1))
    zoom = side / page.image.width
    frames = [Frame(zoom, zoom, -x, -y) for x, y in corners]
    return _views(seen, frames, page, (_PADDING,))


def _views(seen: Tensor, frames: list[Frame], drawing: Drawing, plain: tuple[tuple[int, ...], ...]) -> Views:
    """Views of (views, 3, 336, 336); cells of the colours `plain` (RGB) are background."""
    patches = seen.view(-1, 3, SIDE, 14, SIDE, 14).permute(0, 2, 4, 1, 3, 5).reshape(-1, SIDE, SIDE, 588)
    pixels = patches.view(-1, CELLS, 2, CELLS, 2, 3, 196)
    low, high = (
        pixels.amin(dim=(2, 4, 6)).flatten(1, 2),
        pixels.amax(dim=(2, 4, 6)).flatten(1, 2),
    )  # (views, 144, 3)
    busy = (high - low).amax(-1) >= _BLANK_RANGE
    colored = torch.ones_like(busy)
    for color in plain:
        level = normalize(torch.tensor(color, dtype=torch.float32).view(3, 1, 1))[:, 0, 0]
        colored &= (low - level).abs().amax(-1) >= _BLANK_RANGE
    return Views(
        patches.half().numpy(),
        (busy | colored).numpy(),
        np.stack([glyph_labels(drawing, frame) for frame in frames]),
        np.stack([mark_labels(drawing, frame) for frame in frames]),
        frames,
    )
