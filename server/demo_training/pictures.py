"""Pictures of the demo's domain, and the truth about them: printed text, coloured shapes, or neither."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$.:-"
CHARACTERS = GLYPHS + " "
COLORS = {
    "red": (222, 36, 36),
    "green": (30, 155, 60),
    "blue": (35, 75, 220),
    "yellow": (245, 210, 30),
    "black": (20, 20, 20),
    "purple": (140, 45, 175),
}
SHAPES = ("circle", "square", "triangle", "diamond")

_BASELINE = 0.85  # of the font size, below the top of a line
_CHARACTER_ID = {char: index + 1 for index, char in enumerate(CHARACTERS)}
_SPACE_ID = _CHARACTER_ID[" "]

VIEW_PX = 336  # the longer side of a picture in its global view
# Font sizes of the domain, in pixels of the global view; the small ones are for the crops of a 4 x 4 grid.
PRINT_EM = (22.0, 34.0)
SMALL_PRINT_EM = (6.0, 8.0)
SMALL_PRINT_PX = (700, 1000)  # the longer side of such pictures; smaller ones would be blurs
MIN_LINE_PITCH_PX = 30.0  # in the view; wider than a row of tokens, so that lines do not share one

TRAINING_WORDS = [
    "APPLE",
    "BREAD",
    "WATER",
    "TABLE",
    "HOUSE",
    "LIGHT",
    "GREEN",
    "RIVER",
    "STONE",
    "CLOUD",
    "MUSIC",
    "PAPER",
    "TRAIN",
    "PLANE",
    "HORSE",
    "TIGER",
    "LEMON",
    "SUGAR",
    "COFFEE",
    "TEA",
    "MILK",
    "CAKE",
    "OPEN",
    "CLOSED",
    "EXIT",
    "ENTER",
    "STOP",
    "GO",
    "SALE",
    "PRICE",
    "TOTAL",
    "CASH",
    "MENU",
    "SHOP",
    "BOOK",
    "PHONE",
    "NAME",
    "DATE",
    "TIME",
    "WORLD",
    "TEST",
    "IMAGE",
    "TEXT",
    "MODEL",
    "SERVER",
    "TOKEN",
    "HOTEL",
    "ROOM",
    "FLOOR",
    "STREET",
    "NORTH",
    "SOUTH",
    "EAST",
    "WEST",
    "LEFT",
    "RIGHT",
    "FREE",
    "NEW",
    "OLD",
    "HOT",
    "COLD",
    "BIG",
    "SMALL",
    "RED",
    "BLUE",
    "BLACK",
    "WHITE",
    "MONDAY",
    "FRIDAY",
    "JUNE",
    "MARCH",
    "ITEM",
    "PIZZA",
    "SALAD",
    "SOUP",
    "FISH",
    "RICE",
    "EGG",
    "SALT",
    "DAY",
    "NIGHT",
    "SUN",
    "MOON",
    "STAR",
    "TREE",
    "LEAF",
    "BIRD",
    "CAT",
    "DOG",
    "FOX",
    "BEAR",
    "WOLF",
    "KEY",
    "DOOR",
    "CAR",
    "BUS",
    "ROAD",
    "MAP",
    "CITY",
    "PARK",
    "LAKE",
    "SEA",
    "HILL",
    "THANKS",
    "PLEASE",
    "WARNING",
    "PUSH",
    "PULL",
    "TICKET",
    "GATE",
    "SEAT",
    "ROW",
    "BOX",
    "BAG",
    "CUP",
    "PEN",
    "LAMP",
    "QUICK",
    "BROWN",
    "JUMPS",
    "OVER",
    "LAZY",
    "THE",
    "AND",
    "FOR",
    "WITH",
]
# Never drawn in training: the exam's words.
HELD_OUT_WORDS = [
    "BANANA",
    "ORANGE",
    "FLOWER",
    "WINTER",
    "GARDEN",
    "BRIDGE",
    "SILVER",
    "ROCKET",
    "PENCIL",
    "MIRROR",
    "CASTLE",
    "DRAGON",
    "YELLOW",
    "KITCHEN",
    "LIBRARY",
    "PYTHON",
    "NUMBER",
    "SUMMER",
    "WALLET",
    "CAMERA",
    "JACKET",
    "VIOLIN",
    "MARKET",
    "JUNGLE",
    "PLANET",
    "ZEBRA",
    "HELLO",
    "INVOICE",
    "RECEIPT",
    "SUBTOTAL",
]


@dataclass(frozen=True)
class Print:
    """Characters as drawn, in reading order, spaces left out. All (n,)."""

    chars: np.ndarray  # int: index in `CHARACTERS`, plus one
    before: np.ndarray  # the same of the character in front on the line; 0 at the beginning
    after: np.ndarray
    x: np.ndarray  # the middle of the advance, in pixels of the picture
    y: np.ndarray  # between baseline and cap height
    offsets: np.ndarray  # int: where the character stands in the text, a line break counted as one


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
    print: Print | None = None
    em_px: float = 0.0  # font size, in pixels of the picture
    shapes: tuple[Shape, ...] = ()  # from left to right

    @property
    def em_in_view(self) -> float:
        """Font size in pixels of the global view."""
        return self.em_px * VIEW_PX / max(self.image.size)


def random_text(rng: Random, words: list[str] | None, max_chars: int) -> str:
    """One line: words, prices, numbers, times, and many random strings, so that reading beats guessing.

    Without `words` those of training, with four random strings of letters for each.
    """
    line = ""
    for _ in range(rng.choice((1, 2, 2, 3, 3))):
        kind = rng.random()
        if kind < 0.30:
            item = rng.choice(words) if words else _training_word(rng)
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
    long_px: tuple[int, int] = (336, 1000),
) -> Drawing:
    """Black text on white in Pillow's own font.

    Args:
        em: range of the font size in pixels of the global view, drawn log-uniformly.
        lines: fewest and most lines; fewer where they do not fit.
        max_chars: of a line.
        words: the words to draw from, those of training by default, with strings of letters among them.
        long_px: range of the picture's longer side.
    """
    width, height = _size(rng, long_px)
    scale = VIEW_PX / max(width, height)
    em_px = max(8, round(_log_uniform(rng, em) / scale))
    pitch = max(em_px * rng.uniform(1.2, 1.7), MIN_LINE_PITCH_PX / scale)
    room = int((height - em_px * 1.1) / pitch) + 1
    count = max(1, min(room, rng.randint(*lines)))
    texts = [_fitting(rng, words, em_px, width * 0.97, max_chars) for _ in range(count)]
    widths = [_advances(text, em_px).sum() for text in texts]
    free = max(0.0, width - max(widths))
    left = free / 2 if rng.random() < 0.3 else rng.uniform(0.02, 0.98) * free
    centered = rng.random() < 0.4
    lefts = [left + (max(widths) - w) / 2 if centered else left for w in widths]
    spare = max(0.0, height - pitch * (count - 1) - em_px)
    top = spare * (0.5 if rng.random() < 0.3 else rng.random())
    runs = [
        (text, left, top + row * pitch + em_px * _BASELINE)
        for row, (text, left) in enumerate(zip(texts, lefts, strict=True))
    ]
    return _print(Image.new("RGB", (width, height), "white"), runs, em_px)


def draw_page(rng: Random, *, em: tuple[float, float], zoom: float, side: int, gaps: float) -> Drawing:
    """A square page full of text, hundreds of letters to learn from, in grey.

    Args:
        em: range of the font size in pixels of a view.
        zoom: pixels of the page per pixel of a view.
        side: of the page, in pixels of a view.
        gaps: chance of a wide gap behind each piece of text, so that lines begin and end everywhere.
    """
    page_px = round(side * zoom)
    em_px = max(5, round(_log_uniform(rng, em) * zoom))
    pitch = max(em_px * rng.uniform(1.2, 1.6), MIN_LINE_PITCH_PX * zoom)
    baseline = em_px * _BASELINE + rng.uniform(0, pitch)
    runs = []
    while baseline < page_px - em_px * 0.2:
        x = rng.uniform(-1.0, 1.0) * em_px
        while x < page_px:
            text = _any_text(rng)
            while rng.random() >= gaps:
                text += " " + _any_text(rng)
            runs.append((text, x, baseline))
            x += _advances(text, em_px).sum() + em_px * rng.uniform(0.8, 5.0)
        baseline += pitch
    return _print(Image.new("L", (page_px, page_px), "white"), runs, em_px)


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


def _print(image: Image.Image, runs: list[tuple[str, float, float]], em_px: int) -> Drawing:
    """Draw runs of text, each with its left edge and baseline, and keep the truth about them."""
    pen = ImageDraw.Draw(image)
    parts: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(Print)}
    offset = 0
    for text, left, baseline in runs:
        pen.text((left, baseline), text, font=_font(em_px), fill="black", anchor="ls")
        steps = _advances(text, em_px)
        ids = np.array([_CHARACTER_ID[c] for c in text])
        padded = np.concatenate([[0], ids, [0]])
        solid = ids != _SPACE_ID
        values = {
            "chars": ids, "before": padded[:-2], "after": padded[2:],
            "x": left + steps.cumsum() - steps / 2, "y": np.full(len(ids), baseline - em_px * 0.35),
            "offsets": offset + np.arange(len(ids)),
        }  # fmt: skip
        for name, value in values.items():
            parts[name].append(value[solid])
        offset += len(text) + 1
    joined = {name: np.concatenate(value) for name, value in parts.items()}
    return Drawing(image, tuple(text for text, *_ in runs), Print(**joined), em_px)


def _advances(text: str, em_px: int) -> np.ndarray:
    """How far each character moves the pen, in pixels."""
    return np.array([_advance(c, em_px) for c in text])


@cache
def _advance(char: str, em_px: int) -> float:
    return _font(em_px).getlength(char)


@cache
def _font(em_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(em_px)


def _log_uniform(rng: Random, span: tuple[float, float]) -> float:
    return span[0] * (span[1] / span[0]) ** rng.random()


def _size(rng: Random, long_px: tuple[int, int] = (336, 1000)) -> tuple[int, int]:
    """Width and height in pixels, up to 5:4 either way: crops form a square, so no view is squeezed."""
    long = rng.randint(*long_px)
    short = round(long * rng.uniform(0.8, 1.0)) if rng.random() < 0.7 else long
    return (long, short) if rng.random() < 0.6 else (short, long)


def _fitting(rng: Random, words: list[str] | None, em_px: int, width: float, max_chars: int) -> str:
    while True:
        text = random_text(rng, words, max_chars)
        if _advances(text, em_px).sum() <= width:
            return text
        max_chars = max(1, min(max_chars, len(text)) - 1)


def _training_word(rng: Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(TRAINING_WORDS)
    letters = rng.sample(GLYPHS[:26], rng.randint(2, 3)) if rng.random() < 0.2 else GLYPHS[:26]
    return "".join(rng.choice(letters) for _ in range(rng.randint(3, 8)))


def _any_text(rng: Random) -> str:
    """What lines usually hold, or any characters in any order."""
    if rng.random() < 0.4:
        return random_text(rng, None, 16)
    return "".join(rng.choices(GLYPHS, k=rng.randint(1, 9)))


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
