"""The landscape: a lake in late light, with hills, a white house and trees."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from tests.images.textures import cloudy, fade, grainy, noise, textured

# Drawn at twice the final size. The far shore is a level line: the lake mirrors what is above it.
WIDTH, HEIGHT, SHORE = 2560, 1706, 940
SIZE = (WIDTH, HEIGHT)


def scene() -> Image.Image:
    """The whole picture, from the far to the near."""
    rng = Random(7)
    picture = sky(rng)
    far_bank(rng, picture)
    house(ImageDraw.Draw(picture))
    lake(rng, picture)
    near_bank(rng, picture)
    return grainy(rng, picture.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.LANCZOS), 0.7, 0.05)


def sky(rng: Random) -> Image.Image:
    picture = fade(SIZE, "#4a7db8", "#e9d6b4", "#f6dfb8")
    glow = Image.radial_gradient("L").point(lambda v: max(0, 255 - v * 255 // 180)).resize((2800, 2800))
    picture.paste("#fff3cf", (400, -820), glow.filter(ImageFilter.GaussianBlur(20)))
    clouds = cloudy(rng, SIZE, 150, 4).point(lambda v: max(0, min(215, (v - 125) * 3)))
    thinning = fade(SIZE, "white", "#333333", "black").convert("L")
    picture.paste("#fbf3ea", mask=ImageChops.multiply(clouds, thinning))
    return picture


def far_bank(rng: Random, picture: Image.Image) -> None:
    for base, rise, dark, light in (
        (560, 60, "#8ea6bd", "#a3b7c8"),
        (680, 55, "#6d8b97", "#86a2a3"),
        (800, 38, "#4a6852", "#6f8f62"),
        (895, 9, "#5d7a36", "#9cae58"),
    ):
        mask = Image.new("L", SIZE)
        ImageDraw.Draw(mask).polygon([*ridge(rng, base, rise), (WIDTH, SHORE), (0, SHORE)], 255)
        textured(rng, picture, mask, dark, light, 30)
    draw = ImageDraw.Draw(picture)
    for _ in range(46):
        x = rng.uniform(-40, WIDTH)
        if not 1450 < x < 1900:  # where the house stands
            radius = rng.uniform(22, 75)
            crown(rng, draw, (x, 926 - 0.8 * radius), radius, leaf=5, hue=rng.randint(78, 105))


def ridge(rng: Random, base: float, rise: float) -> list[tuple[float, float]]:
    """A line of hills from left to right."""
    waves = [(rng.uniform(0.6, 1.4) * 2**i, rng.uniform(0, 6.3), rise / 2**i) for i in range(6)]
    return [
        (x, base - sum(a * math.sin(f * x / WIDTH * 6.3 + phase) for f, phase, a in waves))
        for x in range(0, WIDTH + 8, 8)
    ]


def crown(
    rng: Random, draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, leaf: float, hue: int
) -> None:
    """The leaves of a tree in clumps, each lit from the upper right."""
    clumps = []
    for _ in range(40):
        angle, distance = rng.uniform(0, 6.3), radius * 0.85 * math.sqrt(rng.random())
        clumps.append((math.cos(angle) * distance, math.sin(angle) * distance * 0.8))
    for clump_x, clump_y in sorted(clumps, key=lambda c: c[0] - c[1]):  # the lit ones cover the dark ones
        clump_light = 21 + 8 * (clump_x - clump_y) / radius
        for _ in range(int(radius * radius / leaf / leaf / 4)):
            dx, dy = rng.gauss(0, radius * 0.12), rng.gauss(0, radius * 0.1)
            light = clump_light + 50 * (dx - dy) / radius + rng.uniform(-6, 6)
            x, y, size = centre[0] + clump_x + dx, centre[1] + clump_y + dy, leaf * rng.uniform(0.5, 1)
            colour = f"hsl({hue + rng.randint(-8, 8)}, 36%, {max(7, min(58, light)):.0f}%)"
            draw.ellipse((x - size, y - size * 0.7, x + size, y + size * 0.7), colour)


def house(draw: ImageDraw.ImageDraw) -> None:
    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        """From the corner between front and gable, at the ground, to the picture."""
        return [(1745 + 0.75 * x, 928 + 0.75 * y) for x, y in points]

    draw.polygon(at((-320, -185), (-320, 0), (0, 0), (0, -185)), "#ddd3c3")
    draw.polygon(at((0, -185), (0, 0), (110, -8), (110, -180), (55, -275)), "#f7ecd8")
    draw.polygon(at((-355, -175), (-290, -285), (55, -285), (10, -175)), "#8c4a3a")
    for row in range(1, 9):  # tiles
        y = -175 - 110 * row / 9
        draw.line(at((-355 + 65 * row / 9, y), (10 + 45 * row / 9, y)), "#76392c", 2)
    draw.polygon(at((55, -285), (0, -175), (15, -173), (56, -257), (112, -173), (128, -177)), "#6b3226")
    draw.rectangle(at((-240, -340), (-198, -260)), "#7d5247")
    draw.rectangle(at((-185, -105), (-135, 0)), "#4f5d6b")
    for x in (-285, -95):
        draw.rectangle(at((x - 5, -130), (x + 59, -54)), "#f4f1ea")
        draw.rectangle(at((x, -125), (x + 54, -59)), "#4e6172")
        draw.line(at((x + 27, -125), (x + 27, -59)), "#f4f1ea", 4)
        draw.line(at((x, -92), (x + 54, -92)), "#f4f1ea", 4)
    rng = Random(3)
    for x in (-330, -245, -60, 30, 95, 150):
        crown(rng, draw, at((x, -12))[0], rng.uniform(18, 28), leaf=4, hue=92)


def lake(rng: Random, picture: Image.Image) -> None:
    depth = HEIGHT - SHORE
    mirror = ImageOps.flip(picture.crop((0, SHORE - depth, WIDTH, SHORE))).filter(ImageFilter.BoxBlur((6, 4)))
    mirror = Image.blend(mirror, fade(mirror.size, "#56789a", "#3c6285", "#274a68"), 0.38)
    for y in range(depth):  # waves widen towards the viewer
        shift = round((2 + y / 40) * math.sin(900 / (y / 6 + 9)) + rng.uniform(-3, 3))
        picture.paste(ImageChops.offset(mirror.crop((0, y, WIDTH, y + 1)), shift, 0), (0, SHORE + y))
    glitter = noise(rng, SIZE, 50, 4).point(lambda v: max(0, v - 185) * 2)
    glitter.paste(0, (0, 0, WIDTH, SHORE + 6))
    picture.paste("#f7e7c6", mask=glitter)


def near_bank(rng: Random, picture: Image.Image) -> None:
    def edge(x: float) -> float:
        return 1330 + 170 * math.sin(x / WIDTH * 2.9 + 0.2) - 30 * math.sin(x / 190)

    mask = Image.new("L", SIZE)
    line = [(x, edge(x)) for x in range(0, WIDTH + 8, 8)]
    ImageDraw.Draw(mask).polygon([*line, (WIDTH, HEIGHT), (0, HEIGHT)], 255)
    textured(rng, picture, mask, "#33441e", "#66763a", 30)

    trunk = Image.new("L", SIZE)
    limbs = ImageDraw.Draw(trunk)
    limbs.polygon(
        [
            (325, 1540),
            (372, 1400),
            (390, 1100),
            (385, 800),
            (440, 800),
            (448, 1100),
            (470, 1400),
            (530, 1540),
        ],
        255,
    )
    for start, end, thickness in (((410, 900), (240, 640), 30), ((425, 860), (600, 620), 28)):
        limbs.line((start, end), 255, thickness)
    bark = ImageOps.colorize(noise(rng, SIZE, 7, 60), "#2b2019", "#75614d")
    picture.paste(bark, mask=trunk)
    draw = ImageDraw.Draw(picture)
    for x, y, radius in ((230, 640, 230), (620, 620, 230), (420, 400, 290), (420, 650, 220)):
        crown(rng, draw, (x, y), radius, leaf=9, hue=86)

    for y in range(1300, HEIGHT + 60, 4):  # far blades of grass first
        for _ in range(90):
            at, length = rng.uniform(0, WIDTH), (y - 1200) / 11 * rng.uniform(0.6, 1.3)
            if y > edge(at) + 8:
                shade = f"hsl({rng.randint(58, 90)}, {rng.randint(26, 44)}%, {rng.randint(15, 42)}%)"
                draw.line((at, y, at + rng.uniform(-0.4, 0.5) * length, y - length), shade, 3)
