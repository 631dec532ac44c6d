"""What makes a drawing look like a photo: random grain, gradients, a lens and a sensor."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageFilter, ImageOps


def noise(rng: Random, size: tuple[int, int], grain_x: int, grain_y: int) -> Image.Image:
    """Smooth random grey in blobs of `grain_x` by `grain_y` pixels."""
    cells = (size[0] // grain_x + 2, size[1] // grain_y + 2)
    grey = Image.frombytes("L", cells, rng.randbytes(cells[0] * cells[1]))
    return grey.resize(size, Image.Resampling.BICUBIC)


def cloudy(rng: Random, size: tuple[int, int], grain: int, stretch: int = 1) -> Image.Image:
    """Noise of four sizes, one on top of the other, as in clouds, paper or leaves."""
    layers = [noise(rng, size, max(1, grain * stretch >> i), max(1, grain >> i)) for i in range(4)]
    grey = layers[-1]
    for layer in layers[-2::-1]:
        grey = Image.blend(grey, layer, 0.6)
    return ImageOps.autocontrast(grey)


def fade(size: tuple[int, int], top: str, middle: str, bottom: str) -> Image.Image:
    """A vertical gradient of three colours."""
    return ImageOps.colorize(Image.linear_gradient("L").resize(size), top, bottom, mid=middle)


def textured(rng: Random, picture: Image.Image, mask: Image.Image, dark: str, light: str, grain: int) -> None:
    """Paint where the mask is white, in shades between two colours."""
    picture.paste(ImageOps.colorize(cloudy(rng, picture.size, grain, 2), dark, light), mask=mask)


def grainy(rng: Random, picture: Image.Image, blur: float, strength: float) -> Image.Image:
    """What a lens and a sensor do to a picture: a little blur, a little noise."""
    grain = ImageOps.colorize(noise(rng, picture.size, 1, 1), "black", "white")
    return Image.blend(picture.filter(ImageFilter.GaussianBlur(blur)), grain, strength)
