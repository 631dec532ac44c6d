"""The ink on a page: how dark each pixel is against the paper around it, and the marks that it makes.

Uneven light, coloured paper and bright print on dark paper are evened out first, so that all that follows
speaks of ink only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from phi_vision.model.canvas import Canvas
from phi_vision.model.geometry import crop_grid

# The least darkness that counts as ink, of 255. Measured on drawn scans: print shining through from the back
# and faint pencil stay below 30, grey print (level 190 on white) is above 45 where its strokes are blurred.
MIN_DARKNESS = 36
_NOISE_FACTOR = 5.0  # of the noise's standard deviation: that far out a page's noise makes dots, no marks
_PAPER_WINDOW_PX = 41  # wider than strokes and punch holes, narrower than shadows and pictures
_DARKEST_PAPER = 110  # in deeper shadow, noise would be taken for print


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """Brightness of a canvas: uint8 (3, H, W) to uint8 (H, W)."""
    red, green, blue = pixels.astype(np.uint16)
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)


def page_of(canvas: Canvas) -> np.ndarray:
    """Brightness of the page on a canvas, uint8 (h, w), without the white padding around it."""
    grid = crop_grid(canvas.width, canvas.height, canvas.num_crops)
    grey = grey_of(canvas.pixels)
    if grey.shape != (grid.height, grid.width):
        return grey
    bottom, right = grid.top + grid.resized_height, grid.left + grid.resized_width
    return grey[grid.top : bottom, grid.left : right]


def darkness(grey: np.ndarray) -> np.ndarray:
    """How much darker than the paper around it each pixel is, in shares of the paper's brightness.

    Args:
        grey: uint8 (h, w). A page with bright print on dark paper is turned into its negative first.

    Returns:
        uint8 (h, w), 255 for black on paper of any colour, 0 for paper and for what its noise can be.
    """
    positive = 255 - grey if _is_negative(grey) else grey
    paper = _closing(_smooth(positive), _PAPER_WINDOW_PX)
    depth = np.maximum(paper, positive) - positive
    depth[depth < _NOISE_FACTOR * _noise(grey)] = 0
    dark = depth * (np.float32(255) / np.maximum(paper, _DARKEST_PAPER))
    return np.minimum(dark, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Marks:
    """Connected pieces of ink, one an entry of each array."""

    left: np.ndarray  # int, pixels
    top: np.ndarray
    right: np.ndarray  # one past the last
    bottom: np.ndarray
    area: np.ndarray  # pixels of ink

    @property
    def width(self) -> np.ndarray:
        """Of the box, pixels."""
        return self.right - self.left

    @property
    def height(self) -> np.ndarray:
        """Of the box, pixels."""
        return self.bottom - self.top

    def __len__(self) -> int:
        return len(self.area)

    def __getitem__(self, chosen: np.ndarray) -> Marks:
        return Marks(*(getattr(self, field.name)[chosen] for field in fields(self)))


def find_marks(mask: np.ndarray) -> tuple[np.ndarray, Marks]:
    """Pieces of ink that hang together, corners included.

    Args:
        mask: bool (h, w).

    Returns:
        The mark that each pixel belongs to, int32 (h, w), -1 for paper; and the marks.
    """
    rows, starts, ends = _runs(mask)
    names = _connect(rows, starts, ends, mask.shape[1])
    count = int(names.max()) + 1 if len(names) else 0
    left, top = np.full(count, mask.shape[1]), np.full(count, mask.shape[0])
    right, bottom = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(left, names, starts)
    np.minimum.at(top, names, rows)
    np.maximum.at(right, names, ends)
    np.maximum.at(bottom, names, rows + 1)
    area = np.bincount(names, ends - starts, count).astype(int)
    labels = np.full(mask.shape, -1, np.int32)
    labels[mask] = np.repeat(names, ends - starts)
    return labels, Marks(left, top, right, bottom, area)


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, start and end of each horizontal run of ink, row by row."""
    edges = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    edges[:, 1:-1] = mask
    change = np.diff(edges, axis=1)
    rows, starts = np.nonzero(change == 1)
    return rows, starts, np.nonzero(change == -1)[1]


def _connect(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """A number from 0 for each run, the same for those that touch from row to row."""
    # Runs of the row above that touch run i are neighbours in the list: from `first` to `last`.
    stride = width + 2
    first = np.searchsorted(rows * stride + ends, (rows - 1) * stride + starts)
    last = np.searchsorted(rows * stride + starts, (rows - 1) * stride + ends, "right")
    counts = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(rows)), counts)
    above = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    parent = np.arange(len(rows))
    while True:
        low = np.minimum(parent[below], parent[above])
        before = parent.copy()
        np.minimum.at(parent, before[below], low)
        np.minimum.at(parent, before[above], low)
        while not np.array_equal(parent, hop := parent[parent]):
            parent = hop
        if np.array_equal(parent, before):
            return np.unique(parent, return_inverse=True)[1]


def _is_negative(grey: np.ndarray) -> bool:
    """Whether print is brighter than paper.

    Strokes are the smaller part of any patch, so they pull its mean away from its median, to their side.
    """
    height, width = (max(32, side // 32 * 32) for side in grey.shape)
    cut = np.resize(grey, (height, width)) if min(grey.shape) < 32 else grey[:height, :width]
    patches = cut[::2, ::2].reshape(height // 32, 16, width // 32, 16).swapaxes(1, 2).reshape(-1, 256)
    middle = np.partition(patches, 128, axis=1)[:, 128]
    return float((patches.mean(axis=1) - middle).sum()) > 0 and float(np.median(middle)) < 128


def _noise(grey: np.ndarray) -> float:
    """Standard deviation of the noise, in levels, from how neighbours on paper differ."""
    # Not next neighbours: JPEG and resizing make those alike.
    thinned = grey[::2, ::4].astype(np.int16)
    differences = np.abs(np.diff(thinned, axis=1))
    return float(np.median(differences)) / 0.954 if differences.size else 0.0


def _smooth(grey: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 pixels, uint8."""
    padded = np.pad(grey, 1, "edge").astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) // 9).astype(np.uint8)


def _closing(grey: np.ndarray, window: int) -> np.ndarray:
    """Grey closing by a square: dark details narrower than `window` pixels (odd) are filled."""
    for extreme, fill in ((np.maximum, 0), (np.minimum, 255)):
        for axis in (0, 1):
            grey = _extreme(grey, window, axis, extreme, fill)
    return grey


def _extreme(grey: np.ndarray, window: int, axis: int, extreme: np.ufunc, fill: int) -> np.ndarray:
    """Running maximum or minimum over a centred window, by doubling its reach."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (window // 2, window // 2)
    found = np.moveaxis(np.pad(grey, padding, constant_values=fill), axis, 0)
    reach = 1
    while reach < window:
        step = min(reach, window - reach)
        found = extreme(found[:-step], found[step:])
        reach += step
    return np.moveaxis(found, 0, axis)
