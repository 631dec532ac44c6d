"""Pictures that look like the work: drawn from a seed, no two alike, nothing downloaded."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, GREY, RULE, BLUE, ORANGE = "#1d2733", "#64707d", "#c9d0d8", "#2f6db5", "#d9722e"
_SYLLABLES = "al an ar be ca de do el en fa go in ka la le lo ma me mi na no ora pe ra re so ta te va"
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def _word(rng: Random) -> str:
    return "".join(rng.choices(_SYLLABLES.split(), k=rng.randint(1, 4)))


def _words(rng: Random, count: int) -> str:
    return " ".join(_word(rng) for _ in range(count)).capitalize()


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), "white")
    return picture, ImageDraw.Draw(picture)


def invoice(rng: Random) -> Image.Image:
    """An invoice, 800 x 600: names, dates, a table of amounts."""
    picture, draw = _canvas(800, 600)
    big, font = ImageFont.load_default(30), ImageFont.load_default(16)
    draw.rectangle((0, 0, 800, 8), BLUE)
    draw.text((40, 40), _words(rng, 2) + " Ltd", INK, big)
    draw.text((760, 40), "INVOICE", BLUE, big, "ra")
    draw.text((760, 90), f"No. INV-{rng.randint(1000, 9999)}-{rng.randint(100, 999)}", INK, font, "ra")
    draw.text(
        (760, 114), f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {rng.randint(2019, 2026)}", INK, font, "ra"
    )
    for i in range(3):
        draw.text((40, 100 + 22 * i), _words(rng, 3), GREY, font)
    total = 0
    for i in range(rng.randint(6, 11)):
        y = 200 + 30 * i
        quantity, cents = rng.randint(1, 12), rng.randint(199, 49999)
        total += quantity * cents
        draw.text((40, y), _words(rng, rng.randint(2, 5)), INK, font)
        for x, text in (
            (520, str(quantity)),
            (640, f"{cents / 100:.2f}"),
            (760, f"{quantity * cents / 100:,.2f}"),
        ):
            draw.text((x, y), text, INK, font, "ra")
        draw.line((40, y + 24, 760, y + 24), RULE)
    draw.text((760, 550), f"Total EUR {total / 100:,.2f}", INK, big, "ra")
    return picture


def page(rng: Random) -> Image.Image:
    """A page of dense print, 1240 x 1754: A4 at 150 dots an inch."""
    picture, draw = _canvas(1240, 1754)
    title, font = ImageFont.load_default(44), ImageFont.load_default(22)
    draw.text((110, 100), _words(rng, 4), INK, title)
    for column in (110, 640):
        y = 200
        while y < 1620:
            for _ in range(min(rng.randint(3, 9), (1650 - y) // 30)):
                line = _words(rng, 1)
                while font.getlength(line) < 420:
                    line += " " + _word(rng)
                draw.text((column, y), line, INK, font)
                y += 30
            y += 22
    return picture


def photo(rng: Random, width: int = 1920, height: int = 1080) -> Image.Image:
    """A landscape under a sky, 1920 x 1080, with the grain of a camera."""
    noise = np.random.default_rng(rng.getrandbits(32))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, low = noise.uniform(60, 150, 3), noise.uniform(160, 250, 3)
    pixels = np.broadcast_to(top + (low - top) * y, (height, width, 3)).astype(np.float32)
    x = np.arange(width)
    rows = np.arange(height)[:, None]
    for layer in range(5):  # ridges, the nearest last and darkest
        ridge = np.full(width, 0.0)
        for k in range(4):
            turns, phase = noise.uniform(1, 6), noise.uniform(0, 6.3)
            ridge += height * 0.1 / (k + 1) * np.sin(x / width * turns * (k + 1) + phase)
        ridge += height * (0.35 + 0.12 * layer)
        pixels[rows >= ridge[None]] = (noise.uniform(70, 170) + noise.uniform(-30, 30, 3)) * (
            1 - 0.15 * layer
        )
    for octave in (6, 40, 240):  # texture of clouds, trees and stones
        coarse = noise.normal(0, 22, (height * octave // 1080 + 2, width * octave // 1080 + 2))
        texture = Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(texture)[..., None]
    pixels += noise.normal(0, 4, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def chart(rng: Random) -> Image.Image:
    """Bars of a year with a title and an axis, 1000 x 640."""
    picture, draw = _canvas(1000, 640)
    title, font = ImageFont.load_default(30), ImageFont.load_default(18)
    draw.text((500, 30), _words(rng, 4), INK, title, "ma")
    for value in range(0, 101, 20):
        y = 560 - 4.5 * value
        draw.line((80, y, 960, y), RULE)
        draw.text((66, y), str(value), INK, font, "rm")
    for i, month in enumerate(_MONTHS):
        value = rng.randint(5, 100)
        x = 90 + 73 * i
        draw.rectangle((x, 560 - 4.5 * value, x + 50, 560), rng.choice((BLUE, ORANGE)))
        draw.text((x + 25, 552 - 4.5 * value), str(value), INK, font, "md")
        draw.text((x + 25, 570), month, INK, font, "ma")
    return picture


def frames(rng: Random) -> list[Image.Image]:
    """Four frames of a panning camera, 640 x 360 each."""
    scene = photo(rng, 1280, 360)
    step = rng.randint(60, 200)
    return [scene.crop((i * step, 0, i * step + 640, 360)) for i in range(4)]
