"""Pictures of the demo's domain, and the truth about them: printed text, coloured shapes, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$.:-"
COLORS = {
    "red": (222, 36, 36),
    "green": (30, 155, 60),
    "blue": (35, 75, 220),
    "yellow": (245, 210, 30),
    "black": (20, 20, 20),
    "purple": (140, 45, 175),
}
SHAPES = ("circle", "square", "triangle", "diamond")

VIEW_PX = 336  # the longer side of a picture in its global view
MIN_LINE_PITCH_PX = 30.0  # in the view; wider than a row of tokens, so that lines do not share one

TRAINING_WORDS = """APPLE BREAD WATER TABLE HOUSE LIGHT GREEN RIVER STONE CLOUD MUSIC PAPER TRAIN PLANE HORSE
TIGER LEMON SUGAR COFFEE TEA MILK CAKE OPEN CLOSED EXIT ENTER STOP GO SALE PRICE TOTAL CASH MENU SHOP
BOOK PHONE NAME DATE TIME WORLD TEST IMAGE TEXT MODEL SERVER TOKEN HOTEL ROOM FLOOR STREET NORTH SOUTH
EAST WEST LEFT RIGHT FREE NEW OLD HOT COLD BIG SMALL RED BLUE BLACK WHITE MONDAY FRIDAY JUNE MARCH ITEM
PIZZA SALAD SOUP FISH RICE EGG SALT DAY NIGHT SUN MOON STAR TREE LEAF BIRD CAT DOG FOX BEAR WOLF KEY
DOOR CAR BUS ROAD MAP CITY PARK LAKE SEA HILL THANKS PLEASE WARNING PUSH PULL TICKET GATE SEAT ROW BOX
BAG CUP PEN LAMP QUICK BROWN JUMPS OVER LAZY THE AND FOR WITH""".split()
# Never drawn in training: the exam's words.
HELD_OUT_WORDS = """BANANA ORANGE FLOWER WINTER GARDEN BRIDGE SILVER ROCKET PENCIL MIRROR CASTLE DRAGON
YELLOW KITCHEN LIBRARY PYTHON NUMBER SUMMER WALLET CAMERA JACKET VIOLIN MARKET JUNGLE PLANET ZEBRA
HELLO INVOICE RECEIPT SUBTOTAL""".split()


@dataclass(frozen=True)
class Glyph:
    """A character as drawn: its middle, between baseline and cap height, in pixels of the picture."""

    char: str
    x: float
    y: float
    before: str  # the character in front of it on its line, "" at the beginning
    after: str


@dataclass(frozen=True)
class Shape:
    """A filled shape: its middle and its reach, in pixels of the picture."""

    kind: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Drawing:
    """A picture and what is in it. Neither lines nor shapes: outside the domain."""

    image: Image.Image
    lines: tuple[str, ...] = ()
    glyphs: tuple[Glyph, ...] = ()
    em: float = 0.0  # font size, in pixels of the global view
    shapes: tuple[Shape, ...] = ()  # from left to right


def random_text(rng: Random, words: list[str], max_chars: int) -> str:
    """One line: words, prices, numbers, times, and many random strings, so that reading beats guessing."""
    line = ""
    for _ in range(rng.choice((1, 2, 2, 3, 3))):
        kind = rng.random()
        if kind < 0.30:
            item = rng.choice(words)
        elif kind < 0.42:
            item = f"${rng.randint(0, 99)}.{rng.randint(0, 99):02d}"
        elif kind < 0.52:
            item = str(rng.randint(0, 10 ** rng.randint(1, 6)))
        elif kind < 0.58:
            item = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
        elif kind < 0.63:
            item = f"{rng.choice(GLYPHS[:26])}{rng.choice(GLYPHS[:26])}-{rng.randint(0, 9999)}"
        else:
            item = "".join(rng.choice(GLYPHS[:36]) for _ in range(rng.randint(1, 8)))
        longer = f"{line} {item}" if line else item
        if len(longer) > max_chars:
            break
        line = longer
    return line or rng.choice(GLYPHS[:36])


def draw_text(
    rng: Random,
    *,
    em: tuple[float, float],
    lines: tuple[int, int] = (1, 4),
    max_chars: int = 16,
    words: list[str] | None = None,
    fill_page: bool = False,
) -> Drawing:
    """Black text on white in Pillow's own font.

    Args:
        em: range of the font size in pixels of the global view, drawn log-uniformly.
        lines: fewest and most lines; fewer where they do not fit.
        max_chars: of a line.
        words: the words to draw from, those of training by default.
        fill_page: as many full lines as the page holds, for glyphs by the hundred.
    """
    words = words or TRAINING_WORDS
    width, height = _size(rng)
    scale = VIEW_PX / max(width, height)
    em_px = max(8, round(em[0] * (em[1] / em[0]) ** rng.random() / scale))
    pitch = max(em_px * rng.uniform(1.2, 1.7), MIN_LINE_PITCH_PX / scale)
    room = int((height - em_px * 1.1) / pitch) + 1
    if fill_page:
        texts = [_full_line(rng, words, em_px, width * 0.97) for _ in range(max(1, room))]
    else:
        count = min(room, rng.randint(*lines))
        texts = [_fitting(rng, words, em_px, width * 0.97, max_chars) for _ in range(max(1, count))]

    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = _font(em_px)
    widths = [sum(advance(c, em_px) for c in text) for text in texts]
    free = max(0.0, width - max(widths))
    left = free / 2 if rng.random() < 0.3 else rng.uniform(0.02, 0.98) * free
    centered = rng.random() < 0.4
    block = pitch * (len(texts) - 1) + em_px
    top = max(0.0, height - block) * (0.5 if rng.random() < 0.3 else rng.random())
    glyphs = []
    for row, (text, text_width) in enumerate(zip(texts, widths, strict=True)):
        x = left + (max(widths) - text_width) / 2 if centered else left
        baseline = top + row * pitch + em_px * 0.85
        pen.text((x, baseline), text, font=font, fill="black", anchor="ls")
        for i, char in enumerate(text):
            step = advance(char, em_px)
            if char != " ":
                after = text[i + 1 : i + 2]
                glyphs.append(
                    Glyph(char, x + step / 2, baseline - em_px * 0.35, text[i - 1 : i] if i else "", after)
                )
            x += step
    return Drawing(image, tuple(texts), tuple(glyphs), em_px * scale)


def draw_shapes(rng: Random, *, most: int = 3) -> Drawing:
    """One to `most` filled shapes on a light plain background, apart from each other."""
    width, height = _size(rng)
    unit = max(width, height) / VIEW_PX
    background = (255, 255, 255) if rng.random() < 0.6 else tuple(rng.randint(225, 255) for _ in range(3))
    image = Image.new("RGB", (width, height), background)
    pen = ImageDraw.Draw(image)
    wanted = rng.randint(1, most)
    shapes: list[Shape] = []
    for _ in range(80):
        if len(shapes) == wanted:
            break
        radius = min(rng.uniform(24, 60) * unit, min(width, height) / 2 - 2)
        x, y = rng.uniform(radius + 1, width - radius - 1), rng.uniform(radius + 1, height - radius - 1)
        if any(
            (x - s.x) ** 2 + (y - s.y) ** 2 < ((radius + s.radius) * 1.1) ** 2 or abs(x - s.x) < 28 * unit
            for s in shapes
        ):
            continue
        # Repeats are rare by chance; counting needs them.
        kind = rng.choice(shapes).kind if shapes and rng.random() < 0.35 else rng.choice(SHAPES)
        color = rng.choice(shapes).color if shapes and rng.random() < 0.15 else rng.choice(list(COLORS))
        shapes.append(Shape(kind, color, x, y, radius))
        shade = tuple(min(255, max(0, channel + rng.randint(-12, 12))) for channel in COLORS[color])
        _draw_shape(pen, shapes[-1], shade)
    return Drawing(image, shapes=tuple(sorted(shapes, key=lambda s: s.x)))


def draw_stranger(rng: Random) -> Drawing:
    """Something that is no text and no shape: noise, a gradient, stripes, an empty page."""
    width, height = _size(rng)
    kind = rng.randrange(4)
    noise = np.random.default_rng(rng.getrandbits(32))
    if kind == 0:
        coarse = noise.integers(0, 256, (rng.randint(3, 40), rng.randint(3, 40), 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), rng.choice((0, 2)))
    elif kind == 1:
        ends = noise.integers(0, 256, (2, 2, 3), np.uint8)
        image = Image.fromarray(ends).resize((width, height), 2)
    elif kind == 2:
        bars = noise.integers(0, 256, (1, rng.randint(4, 30), 3), np.uint8)
        image = Image.fromarray(bars).resize((width, height), 0)
    else:
        image = Image.new("RGB", (width, height), tuple(rng.randint(0, 255) for _ in range(3)))
    return Drawing(image)


@cache
def advance(char: str, em_px: int) -> float:
    """How far one character moves the pen, in pixels."""
    return _font(em_px).getlength(char)


@cache
def _font(em_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(em_px)


def _size(rng: Random) -> tuple[int, int]:
    """Width and height in pixels: up to 1,000, no longer than 4:3 either way."""
    long = rng.randint(336, 1000)
    short = round(long * rng.uniform(0.75, 1.0)) if rng.random() < 0.7 else long
    return (long, short) if rng.random() < 0.6 else (short, long)


def _fitting(rng: Random, words: list[str], em_px: int, width: float, max_chars: int) -> str:
    while True:
        text = random_text(rng, words, max_chars)
        if sum(advance(c, em_px) for c in text) <= width:
            return text
        max_chars = max(1, min(max_chars, len(text)) - 1)


def _full_line(rng: Random, words: list[str], em_px: int, width: float) -> str:
    line = random_text(rng, words, 1)
    room = width - advance(line, em_px)
    while True:
        item = " " + random_text(rng, words, 16)
        room -= sum(advance(c, em_px) for c in item)
        if room < 0:
            return line
        line += item


def _draw_shape(pen: ImageDraw.ImageDraw, shape: Shape, fill: tuple[int, ...]) -> None:
    x, y, r = shape.x, shape.y, shape.radius
    match shape.kind:
        case "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "square":
            half = r * 0.85
            pen.rectangle((x - half, y - half, x + half, y + half), fill=fill)
        case "triangle":
            pen.polygon([(x, y - r), (x - r * 0.9, y + r * 0.8), (x + r * 0.9, y + r * 0.8)], fill=fill)
        case "diamond":
            pen.polygon([(x, y - r), (x + r * 0.8, y), (x, y + r), (x - r * 0.8, y)], fill=fill)
