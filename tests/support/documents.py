"""Pages of documents with the truth about them, drawn from a seed: print, tables, contents, scans, blanks.

A page is drawn clean by `draw(kind, rng)`, then made a scan by `scanned` (skew, paper, dirt, noise, JPEG),
turned by `turned` and levelled by `levelled`. `labels` says for each pixel which line of print it belongs to,
and follows each step.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from statistics import median

import numpy as np
from demo_training.pictures import random_text
from phi_vision.media.levelling import slanting_part
from phi_vision.media.pages import shown
from phi_vision.media.view import WHOLE, PageView
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

A4_150_DPI = (1240, 1754)
_SYLLABLES = "al an ar be ca de do el en fa go gy in ka la le lo ma me mi na no ora pe ra re so ta te va"
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")


@dataclass(frozen=True)
class Line:
    """A line of print; in a table, a row of cells."""

    text: str
    x_height_px: float  # of the page; where it is all capitals and digits, their height
    column: int = 0  # of print, from the left


@dataclass(frozen=True, eq=False)
class Page:
    """A page and the truth about it."""

    image: Image.Image  # RGB
    lines: tuple[Line, ...] = ()  # in reading order; none: a blank page
    labels: np.ndarray | None = None  # int32 (H, W): 0, or the number of the line in `lines`, from 1

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)

    @property
    def x_height_px(self) -> float | None:
        """The median of the lines, in pixels of the page."""
        return median(line.x_height_px for line in self.lines) if self.lines else None

    def box(self, line: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the ink of a line (from 0), in pixels."""
        assert self.labels is not None
        y, x = np.nonzero(self.labels == line + 1)
        return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


class _Sheet:
    """White paper that notes what is printed on it."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.width, self.height = size
        self.image = Image.new("L", size, 255)
        self.pen = ImageDraw.Draw(self.image)
        self._labels = np.zeros((size[1], size[0]), np.int32)
        self._lines: list[Line] = []

    def print(self, y: float, cells: list[tuple[float, str, str]], em: float, column: int = 0) -> None:
        """One line with its baseline at `y`: cells of (x, text, Pillow's anchor)."""
        font = _font(em)
        for x, text, anchor in cells:
            box = self.pen.textbbox((x, y), text, font, anchor)
            left, top = max(0, int(box[0]) - 1), max(0, int(box[1]) - 1)
            mask = Image.new("L", (int(box[2]) - left + 2, int(box[3]) - top + 2), 255)
            ImageDraw.Draw(mask).text((x - left, y - top), text, 0, font, anchor)
            self.image.paste(0, (left, top), ImageChops.invert(mask))
            labels = self._labels[top : top + mask.height, left : left + mask.width]
            labels[np.asarray(mask)[: labels.shape[0], : labels.shape[1]] < 255] = len(self._lines) + 1
        text = " ".join(text for _, text, _ in cells)
        high = "H" if text.upper() == text else "x"
        self._lines.append(Line(text, -font.getbbox(high, anchor="ls")[1], column))

    def page(self) -> Page:
        return Page(self.image.convert("RGB"), tuple(self._lines), self._labels)


@cache
def _font(em: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(em)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def prose(rng: Random, size: tuple[int, int], em: float) -> Page:
    """A heading and paragraphs of mixed case."""
    sheet = _Sheet(size)
    sheet.print(size[1] * 0.08, [(size[0] * 0.1, _sentence(rng, 3), "ls")], em * 1.8)
    _fill(sheet, rng, em, size[0] * 0.1, size[0] * 0.9, size[1] * 0.12, 0)
    return sheet.page()


def columns(rng: Random, size: tuple[int, int], em: float) -> Page:
    """A heading over two columns of mixed case."""
    sheet = _Sheet(size)
    heading = _sentence(rng, 3)
    while _font(em * 1.8).getlength(heading) < size[0] * 0.6:
        heading += f" {_word(rng)}"
    sheet.print(size[1] * 0.08, [(size[0] * 0.1, heading, "ls")], em * 1.8)
    gutter = max(2 * em, size[0] * 0.04) / 2
    middle = size[0] / 2
    for column, (left, right) in enumerate(
        ((size[0] * 0.08, middle - gutter), (middle + gutter, size[0] * 0.92))
    ):
        _fill(sheet, rng, em, left, right, size[1] * 0.12 + rng.uniform(0, em), column)
    return sheet.page()


def capitals(rng: Random, size: tuple[int, int], em: float) -> Page:
    """Lines of capitals and digits, as the demo model reads them, one column."""
    sheet = _Sheet(size)
    y = size[1] * 0.06 + em
    while y < size[1] * 0.95:
        text = random_text(rng, None, max(1, int(size[0] * 0.8 / em / 0.75)))
        sheet.print(y, [(size[0] * 0.08, text, "ls")], em)
        y += em * 1.5
    return sheet.page()


def contents(rng: Random, size: tuple[int, int], em: float) -> Page:
    """A table of contents: titles, leaders, page numbers."""
    sheet = _Sheet(size)
    sheet.print(size[1] * 0.08, [(size[0] * 0.1, "Contents", "ls")], em * 1.8)
    y, chapter, number = size[1] * 0.14, 1, rng.randint(1, 9)
    left, right = size[0] * 0.1, size[0] * 0.9
    font = _font(em)
    while y < size[1] * 0.93:
        title = f"{chapter} {_sentence(rng, rng.randint(1, 4))}"
        room = right - left - font.getlength(f"{title}  {number}")
        dots = "." * max(3, int(room / font.getlength(".")))
        sheet.print(y, [(left, title, "ls"), (right - font.getlength(f" {number}"), dots, "rs"),
                        (right, str(number), "rs")], em)  # fmt: skip
        y, chapter, number = y + em * 1.6, chapter + 1, number + rng.randint(1, 20)
    return sheet.page()


def table(rng: Random, size: tuple[int, int], em: float) -> Page:
    """A ruled table: words in the first column, numbers in the others."""
    sheet = _Sheet(size)
    edges = [size[0] * share for share in (0.08, 0.42, 0.58, 0.75, 0.92)]
    pitch, top = em * 2.0, size[1] * 0.08
    rows = int(size[1] * 0.84 / pitch)
    rule = max(1, round(em / 14))
    for row in range(rows + 1):
        sheet.pen.line((edges[0], top + row * pitch, edges[-1], top + row * pitch), 0, rule)
    for x in edges:
        sheet.pen.line((x, top, x, top + rows * pitch), 0, rule)
    for row in range(rows):
        y = top + (row + 0.68) * pitch
        name = _sentence(rng, 2)
        while _font(em).getlength(name) > edges[1] - edges[0] - em:
            name = name[:-1].strip()
        cells = [(edges[0] + em * 0.4, name, "ls")]
        cells += [(x - em * 0.4, f"{rng.randint(0, 99999) / 100:.2f}", "rs") for x in edges[2:]]
        sheet.print(y, cells, em)
    return sheet.page()


def one_line(rng: Random, size: tuple[int, int], em: float) -> Page:
    """A nearly empty page: a page number, a short note, or a title."""
    sheet = _Sheet(size)
    number = rng.randint(1, 400)
    text = rng.choice((str(number), f"- {number} -", rng.choice(_ROMAN), f"Page {number}", _sentence(rng, 3)))
    text = rng.choice((text, text, text, "This page intentionally left blank", "ANNEX B"))
    y = size[1] * rng.choice((0.05, 0.3, 0.5, 0.95))
    sheet.print(y, [(size[0] * rng.choice((0.2, 0.5, 0.8)), text, "ms")], em)
    return sheet.page()


def blank(rng: Random, size: tuple[int, int], em: float) -> Page:
    """Nothing; what is on it comes from `scanned`."""
    return _Sheet(size).page()


KINDS: dict[str, Callable[[Random, tuple[int, int], float], Page]] = {
    kind.__name__: kind for kind in (prose, columns, capitals, contents, table, one_line, blank)
}


def draw(kind: str, rng: Random, size: tuple[int, int] = A4_150_DPI, em: float = 24) -> Page:
    """A clean page of a kind in `KINDS`: `size` in pixels, `em` the font size in pixels of the page."""
    return KINDS[kind](rng, size, em)


def scanned(
    page: Page,
    rng: Random,
    *,
    skew_degrees: float = 0.0,
    ink: int = 20,
    paper: tuple[int, int, int] = (255, 255, 255),
    inverted: bool = False,
    dirt: tuple[str, ...] = (),
    noise: float = 0.0,
    blur_px: float = 0.0,
    jpeg_quality: int | None = None,
) -> Page:
    """The page as a scanner gives it.

    Args:
        page: a clean page, black on white.
        rng: where dirt and noise come from.
        skew_degrees: counterclockwise, about the middle.
        ink: grey of the print on white paper; 20 black, 200 faint.
        paper: its colour.
        inverted: bright print on dark paper.
        dirt: names in `DIRT`, applied in this order.
        noise: standard deviation of each pixel, in levels of 255.
        blur_px: radius of a Gaussian.
        jpeg_quality: of a round through JPEG; None for none.
    """
    image = page.image.convert("L")
    labels = page.labels
    if skew_degrees:
        image = image.rotate(skew_degrees, Image.Resampling.BICUBIC, fillcolor=255)
        if labels is not None:
            turned_labels = Image.fromarray(labels).rotate(skew_degrees, Image.Resampling.NEAREST)
            labels = np.asarray(turned_labels)
    image = image.point([round(ink + level * (255 - ink) / 255) for level in range(256)])
    for name in dirt:
        image = DIRT[name](image, rng)
    if blur_px:
        image = image.filter(ImageFilter.GaussianBlur(blur_px))
    tones = np.arange(256)[:, None] / 255 * np.array(paper)  # of red, green and blue
    pixels = np.round(255 - tones if inverted else tones).astype(np.int16)[np.asarray(image)]
    if noise:
        normal = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape[:2], np.float32)
        pixels += (normal * noise).astype(np.int16)[..., None]
    scan = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if jpeg_quality is not None:
        buffer = io.BytesIO()
        scan.save(buffer, "JPEG", quality=jpeg_quality)
        scan = Image.open(buffer).convert("RGB")
    return replace(page, image=scan, labels=labels)


def levelled(page: Page, slant: float) -> Page:
    """The page as the server levels it; `slant` as in `PageView`."""
    image = shown(page.image, PageView(slant=slant))
    if page.labels is None or not slant:
        return replace(page, image=image)
    part = slanting_part(*page.image.size, slant, WHOLE)
    y, x = np.mgrid[: image.height, : image.width] + 0.5
    places = part.corner + (x + 1j * y) * part.turn
    down, across = np.floor(places.imag).astype(int), np.floor(places.real).astype(int)
    height, width = page.labels.shape
    on_page = (down >= 0) & (down < height) & (across >= 0) & (across < width)
    labels = np.zeros((image.height, image.width), np.int32)
    labels[on_page] = page.labels[down[on_page], across[on_page]]
    return replace(page, image=image, labels=labels)


def turned(page: Page, rotation: int) -> Page:
    """The page turned clockwise by 0, 90, 180 or 270 degrees."""
    labels = None if page.labels is None else np.rot90(page.labels, -(rotation // 90))
    return replace(page, image=page.image.rotate(-rotation, expand=True), labels=labels)


def _specks(image: Image.Image, rng: Random) -> Image.Image:
    """Dust: up to 0.4 mm on A4, dark or grey."""
    pen = ImageDraw.Draw(image)
    unit = image.width / 210  # a millimetre of A4
    for _ in range(rng.randint(10, 120)):
        x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
        across, down = (unit * rng.uniform(0.05, 0.2) for _ in range(2))
        pen.ellipse((x - across, y - down, x + across, y + down), rng.randint(40, 210))
    return image


def _holes(image: Image.Image, rng: Random) -> Image.Image:
    """Two or four punch holes of 6 mm at the left, black or grey, or only their shaded rims."""
    pen = ImageDraw.Draw(image)
    unit = image.width / 210
    count = rng.choice((2, 4))
    fill, outline = rng.choice(((0, 0), (90, 60), (170, 120), (None, 90)))
    for hole in range(count):
        x = unit * 12 + rng.uniform(-2, 2)
        y = image.height / 2 + (hole - (count - 1) / 2) * unit * 80
        pen.ellipse(
            (x - 3 * unit, y - 3 * unit, x + 3 * unit, y + 3 * unit), fill, outline, max(1, round(unit / 3))
        )
    return image


def _shadow(image: Image.Image, rng: Random) -> Image.Image:
    """Darkness that grows towards one or two edges, and sometimes the black of the open lid."""
    level = np.asarray(image, np.float32)
    for _ in range(rng.randint(1, 2)):
        turns = rng.randint(0, 3)
        level = np.rot90(level, turns)
        reach = level.shape[1] * rng.uniform(0.02, 0.15)
        shade = rng.uniform(0.3, 0.9) * np.exp(-np.arange(level.shape[1]) / reach)
        level = level * (1 - shade)
        if rng.random() < 0.4:
            level = level.copy()
            level[:, : int(level.shape[1] * rng.uniform(0.003, 0.02))] = rng.uniform(0, 40)
        level = np.rot90(level, -turns)
    return Image.fromarray(level.astype(np.uint8))


def _pencil(image: Image.Image, rng: Random) -> Image.Image:
    """A few strokes of faint pencil: ticks, a line down the margin, a curl."""
    unit = image.width / 210
    layer = Image.new("L", image.size, 255)
    pen = ImageDraw.Draw(layer)
    for _ in range(rng.randint(1, 4)):
        x, y = rng.uniform(0.1, 0.9) * image.width, rng.uniform(0.1, 0.9) * image.height
        points = [(x, y)]
        dx, dy = rng.uniform(-2, 2), rng.uniform(-2, 2)
        for _ in range(rng.randint(3, 30)):
            dx, dy = dx + rng.uniform(-0.7, 0.7), dy + rng.uniform(-0.7, 0.7)
            points.append((points[-1][0] + dx * unit, points[-1][1] + dy * unit))
        pen.line(points, 255 - rng.randint(12, 30), max(1, round(unit * 0.5)), "curve")
    return _darker(image, layer.filter(ImageFilter.GaussianBlur(0.7)))


def _bleed(image: Image.Image, rng: Random) -> Image.Image:
    """The print of the back shining through: mirrored, faint, blurred."""
    back = prose(rng, image.size, image.width / 210 * rng.uniform(3, 6)).image.convert("L")
    back = back.transpose(Image.Transpose.FLIP_LEFT_RIGHT).filter(ImageFilter.GaussianBlur(image.width / 800))
    strength = rng.uniform(0.03, 0.10)
    return _darker(image, back.point([round(255 - (255 - level) * strength) for level in range(256)]))


def _fold(image: Image.Image, rng: Random) -> Image.Image:
    """A crease across or down the page, or dust on the scanner's glass: thin, straight, whole length."""
    pen = ImageDraw.Draw(image)
    share = rng.uniform(0.2, 0.8)
    tilt = rng.uniform(-0.005, 0.005)
    ends: tuple[float, float, float, float]
    if rng.random() < 0.5:
        ends = (0, share * image.height, image.width, (share + tilt) * image.height)
    else:
        ends = (share * image.width, 0, (share + tilt) * image.width, image.height)
    pen.line(ends, rng.randint(60, 230), max(1, round(image.width / 1240)))
    return image


def _darker(image: Image.Image, layer: Image.Image) -> Image.Image:
    product = np.asarray(image, np.float32) * np.asarray(layer, np.float32) / 255
    return Image.fromarray(product.astype(np.uint8))


DIRT: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "specks": _specks,
    "holes": _holes,
    "shadow": _shadow,
    "pencil": _pencil,
    "bleed": _bleed,
    "fold": _fold,
}


def _fill(sheet: _Sheet, rng: Random, em: float, left: float, right: float, top: float, column: int) -> None:
    """Paragraphs between `left` and `right`, down to the foot."""
    y, font = top + em, _font(em)
    pitch = em * rng.uniform(1.2, 1.5)
    while y < sheet.height * 0.94:
        for _ in range(rng.randint(3, 9)):
            text = _sentence(rng, 1)
            while font.getlength(longer := f"{text} {_word(rng)}") <= right - left:
                text = longer + rng.choice(("", "", "", "", "", ","))
            while font.getlength(text) > right - left:
                text = text[:-1].rstrip()
            if y < sheet.height * 0.94:
                sheet.print(y, [(left, text, "ls")], em, column)
            y += pitch
        y += pitch * 0.6


def _word(rng: Random) -> str:
    return "".join(rng.choices(_SYLLABLES.split(), k=rng.randint(1, 4)))


def _sentence(rng: Random, words: int) -> str:
    return " ".join(_word(rng) for _ in range(words)).capitalize()
