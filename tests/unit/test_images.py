"""The committed pictures are what their script draws: neither can change without the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

IMAGES = Path(__file__).parents[1] / "images"
NAMES = sorted(path.name for path in IMAGES.iterdir() if path.suffix in {".png", ".jpg"})

# JPEG libraries round differently, by a level or two a pixel. The mean is taken in tiles about as large as
# one printed character, so that a single changed digit counts.
TILE_PIXELS = 16
JPEG_TILE_MEAN_MAX = 4


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    command = [sys.executable, "-m", "tests.images.make_images", str(folder)]
    subprocess.run(command, check=True, cwd=IMAGES.parents[1])
    return folder


def test_the_script_draws_exactly_the_committed_files(redrawn: Path) -> None:
    assert sorted(path.name for path in redrawn.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_picture_is_what_the_script_draws(redrawn: Path, name: str) -> None:
    with Image.open(IMAGES / name) as committed, Image.open(redrawn / name) as drawn:
        assert (committed.mode, committed.size) == (drawn.mode, drawn.size)
        difference = ImageChops.difference(committed, drawn)
    if name.endswith(".png"):
        assert difference.getbbox() is None
    else:
        tile_means: Any = difference.convert("RGB").reduce(TILE_PIXELS).getextrema()
        assert max(highest for _, highest in tile_means) <= JPEG_TILE_MEAN_MAX


def test_the_readme_names_each_picture_with_its_size() -> None:
    readme = (IMAGES / "README.md").read_text()
    for name in NAMES:
        with Image.open(IMAGES / name) as picture:
            row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
            assert f"| {picture.width} x {picture.height} |" in row


def test_the_pictures_stay_small() -> None:
    assert sum((IMAGES / name).stat().st_size for name in NAMES) < 1_500_000
