"""The drawn pages that other tests measure with: is the truth that comes with them true?"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tests.support.documents import DIRT, KINDS, Page, draw, scanned, turned

SIZE = (620, 877)


def _ink(page: Page) -> np.ndarray:
    return np.asarray(page.image.convert("L")) < 128


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"blank", "table"}))
def test_all_ink_belongs_to_a_line(kind: str) -> None:
    page = draw(kind, Random(1), SIZE, em=14)
    assert page.labels is not None
    assert page.labels.max() == len(page.lines) > 0
    missed = _ink(page) & (page.labels == 0)
    assert missed.sum() < 0.03 * _ink(page).sum()  # the labels' edges are not smoothed


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_labels_follow_the_ink(rotation: int) -> None:
    page = turned(scanned(draw("prose", Random(2), SIZE, em=14), Random(2), skew_degrees=2), rotation)
    assert page.labels is not None and page.labels.shape == page.image.size[::-1]
    ink = _ink(page)
    assert (ink & (page.labels > 0)).sum() > 0.9 * ink.sum()


def test_the_same_seed_draws_the_same_scan() -> None:
    scans = [
        scanned(draw("blank", Random(3), SIZE), Random(3), dirt=tuple(DIRT), noise=5, jpeg_quality=40)
        for _ in range(2)
    ]
    assert scans[0].image.tobytes() == scans[1].image.tobytes()
    assert np.asarray(scans[0].image).std() > 1
    assert scans[0].x_height_px is None
