"""Draw the pictures of this folder with Pillow alone.

`python -m tests.images.make_images [FOLDER]` writes them into FOLDER, or beside this file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from tests.images.scene import scene
from tests.images.textures import cloudy, fade, grainy, noise

HERE = Path(__file__).parent
INK, GREY, RULE, BLUE, ORANGE = "#1d2733", "#64707d", "#c9d0d8", "#2f6db5", "#d9722e"
# Pillow does not smooth slanted edges, and FreeType 2.13 and 2.14 hint the letters i and j differently below
# 25 pixels, so what has small print is drawn larger, then reduced. Elsewhere words have 25 pixels or more.
SUPERSAMPLING = 2

CUSTOMER = ["Maple & Finch Studio", "Ada Whitlock", "7 Orchard Row", "Kestrel Bay KB1 9HD"]
INVOICE_FACTS = [
    ("Invoice no.", "INV-2024-0387"),
    ("Invoice date", "12 March 2024"),
    ("Due date", "11 April 2024"),
    ("Customer no.", "20514"),
]
# (description, quantity, price of one)
INVOICE_LINES = [
    ("Oak desk, 160 x 80 cm", 2, "349.00"),
    ("Office chair, grey felt", 2, "215.00"),
    ("Desk lamp, brass", 4, "58.50"),
    ("Cable tray, steel", 6, "17.25"),
    ("Delivery and assembly", 1, "95.00"),
]
RECEIPT_LINES = [
    ("Wholegrain bread", "1", "2.95"),
    ("Oat milk 1 l", "2", "1.89"),
    ("Tomatoes, per kg", "0.850", "2.40"),
    ("Free-range eggs, 10", "1", "3.49"),
    ("Coffee beans 500 g", "1", "8.90"),
    ("Dark chocolate 70%", "3", "1.65"),
    ("Olive oil 750 ml", "1", "7.49"),
    ("Paper bag", "1", "0.25"),
]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
VISITORS_2023 = [36, 35, 47, 55, 70, 79, 92, 90, 77, 61, 45, 50]
VISITORS_2024 = [42, 38, 51, 63, 74, 88, 97, 103, 81, 66, 49, 57]

FOOTNOTE = "The mean of the years 1862 to 1886, from the keeper's own log books."


def font(size: float) -> ImageFont.FreeTypeFont:
    """The font inside Pillow (ASCII only), laid out alike whether or not Pillow was built with Raqm."""
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont)
    return default.font_variant(layout_engine=ImageFont.Layout.BASIC)


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: float,
    anchor: str = "ls",
    fill: str = INK,
    bold: bool = False,
) -> None:
    """One line of text; the font has no bold face, so bold is drawn twice."""
    for shift in (0, size / 22)[: 1 + bold]:
        draw.text((at[0] + shift, at[1]), text, fill, font(size), anchor)


def wrapped(text: str, size: float, width: float) -> Iterator[str]:
    """The lines of a paragraph that are at most `width` pixels long."""
    line = ""
    for word in text.split():
        if line and font(size).getlength(f"{line} {word}") > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def arrow(draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], head: int = 22) -> None:
    """A straight arrow; `head` is the length of its tip."""
    (x, y), angle = end, math.atan2(end[1] - start[1], end[0] - start[0])
    draw.line((*start, x - head / 2 * math.cos(angle), y - head / 2 * math.sin(angle)), INK, 5)
    wings = [(x - head * math.cos(angle + turn), y - head * math.sin(angle + turn)) for turn in (-0.45, 0.45)]
    draw.polygon([(x, y), *wings], INK)


def invoice() -> Image.Image:
    """An invoice of exactly 800x600 pixels."""
    picture = Image.new("RGB", (800 * SUPERSAMPLING, 600 * SUPERSAMPLING), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 1600, 16), BLUE)
    write(draw, (80, 124), "Northlight Furniture Ltd", 48, bold=True)
    write(draw, (80, 168), "14 Mill Lane, Elmford EF2 4QT", 28, fill=GREY)
    write(draw, (1520, 128), "INVOICE", 64, "rs", BLUE, bold=True)

    write(draw, (80, 260), "BILL TO", 24, fill=GREY, bold=True)
    for i, line in enumerate(CUSTOMER):
        write(draw, (80, 302 + 40 * i), line, 30)
    for i, (name, value) in enumerate(INVOICE_FACTS):
        write(draw, (1040, 302 + 40 * i), name, 30, fill=GREY)
        write(draw, (1520, 302 + 40 * i), value, 30, "rs")

    draw.rectangle((80, 476, 1520, 536), "#e8eff7")
    columns = [(104, "ls"), (940, "rs"), (1220, "rs"), (1496, "rs")]

    def row(y: int, cells: tuple[str, ...], bold: bool = False) -> None:
        for (x, anchor), cell in zip(columns, cells, strict=True):
            write(draw, (x, y), cell, 30, anchor, bold=bold)

    row(516, ("Description", "Quantity", "Unit price", "Amount"), bold=True)
    for i, (description, quantity, price) in enumerate(INVOICE_LINES):
        row(584 + 64 * i, (description, str(quantity), price, f"{quantity * Decimal(price):,.2f}"))
        draw.line((80, 606 + 64 * i, 1520, 606 + 64 * i), RULE, 2)

    subtotal = sum((quantity * Decimal(price) for _, quantity, price in INVOICE_LINES), Decimal(0))
    vat = subtotal * Decimal("0.20")
    for i, (name, amount) in enumerate([("Subtotal", subtotal), ("VAT 20%", vat)]):
        write(draw, (1220, 928 + 48 * i), name, 30, "rs", GREY)
        write(draw, (1496, 928 + 48 * i), f"{amount:,.2f}", 30, "rs")
    draw.rectangle((940, 1000, 1520, 1068), BLUE)
    write(draw, (1220, 1046), "Total due EUR", 34, "rs", "white", bold=True)
    write(draw, (1496, 1046), f"{subtotal + vat:,.2f}", 34, "rs", "white", bold=True)
    write(draw, (80, 928), "Payment within 30 days to", 26, fill=GREY)
    write(draw, (80, 968), "Elmford Savings Bank", 26, fill=GREY)
    write(draw, (80, 1008), "Account 4410 0927 35", 26, fill=GREY)
    write(
        draw, (800, 1152), "Thank you for your order. Questions: accounts@northlight.example", 26, "ms", GREY
    )
    return picture.reduce(SUPERSAMPLING)


def chart() -> Image.Image:
    """Monthly visitors of two years: bars for one, a line for the other."""
    picture = Image.new("RGB", (1000 * SUPERSAMPLING, 640 * SUPERSAMPLING), "white")
    draw = ImageDraw.Draw(picture)
    left, right, top, bottom, step = 190, 1930, 230, 1080, 145

    def y_of(visitors: float) -> float:
        return bottom - visitors / 120 * (bottom - top)

    write(draw, (1000, 90), "Visitors to the City Museum by Month", 52, "ms", bold=True)
    for value in range(0, 121, 20):
        draw.line((left, y_of(value), right, y_of(value)), RULE, 2)
        write(draw, (left - 20, y_of(value)), str(value), 32, "rm")
    line = []
    for i, (month, before, now) in enumerate(zip(MONTHS, VISITORS_2023, VISITORS_2024, strict=True)):
        x = left + step * (i + 0.5)
        draw.rectangle((x - 46, y_of(now), x + 46, bottom), BLUE)
        write(draw, (x, bottom - 22), str(now), 34, "ms", "white")
        write(draw, (x, bottom + 48), month, 34, "ms")
        line.append((x, y_of(before)))
    draw.line(line, ORANGE, 8, joint="curve")
    for x, y in line:
        draw.ellipse((x - 13, y - 13, x + 13, y + 13), "white", ORANGE, 7)
    draw.line([(left, top), (left, bottom), (right, bottom)], INK, 4)

    write(draw, ((left + right) / 2, 1215), "Month", 36, "ms")
    label = Image.new("RGB", (bottom - top, 50), "white")
    write(ImageDraw.Draw(label), ((bottom - top) / 2, 38), "Visitors (thousands)", 36, "ms")
    picture.paste(label.transpose(Image.Transpose.ROTATE_90), (40, top))
    draw.rectangle((760, 135, 800, 175), BLUE)
    write(draw, (820, 168), "2024", 36)
    draw.line((1050, 155, 1130, 155), ORANGE, 8)
    draw.ellipse((1077, 142, 1103, 168), "white", ORANGE, 7)
    write(draw, (1150, 168), "2023", 36)
    return picture.reduce(SUPERSAMPLING)


def receipt() -> Image.Image:
    """A till receipt on a wooden desk, photographed a little askew."""
    rng = Random(11)
    size = (600, 1400)
    desk = ImageOps.colorize(noise(rng, size, 9, 500), "#6b4a30", "#8f6a48")
    paper_size = (500, 1290)
    paper = ImageOps.colorize(cloudy(rng, paper_size, 160), "#e3dfd5", "#fbf9f3")
    draw = ImageDraw.Draw(paper)
    left, middle, right, y = 40, 250, 460, 90

    def row(name: str, value: str = "", size: int = 25, step: int = 36, bold: bool = False) -> None:
        nonlocal y
        write(draw, (left, y), name, size, bold=bold)
        write(draw, (right, y), value, size, "rs", bold=bold)
        y += step

    def dashes() -> None:
        nonlocal y
        for x in range(left, right, 14):
            draw.line((x, y - 12, x + 7, y - 12), INK, 2)
        y += 34

    write(draw, (middle, y), "GREEN CORNER", 44, "ms", bold=True)
    for text in ("Fresh food market", "23 Station Road, Elmford", "Tel. 555 0142"):
        y += 38
        write(draw, (middle, y), text, 25, "ms")
    y += 58
    row("18.05.2024  17:42", "Till 3")
    row("Receipt 004817", "Cashier: Mina", step=44)
    dashes()
    total = Decimal()
    for name, quantity, price in RECEIPT_LINES:
        amount = Decimal(quantity) * Decimal(price)
        total += amount
        row(name, f"{amount:.2f}", step=36 if quantity == "1" else 30)
        if quantity != "1":
            row(f"     {quantity} x {price}", size=20)
    row("Loyalty discount", "-1.50", step=44)
    total -= Decimal("1.50")
    dashes()
    y += 10
    row("TOTAL EUR", f"{total:.2f}", size=36, step=52, bold=True)
    row("Cash", "40.00")
    row("Change", f"{40 - total:.2f}", step=44)
    dashes()
    row("VAT 7% included", f"{total * 7 / 107:.2f}", step=70)
    write(draw, (middle, y), "Thank you, see you soon!", 25, "ms")
    x = 90
    while x < 410:  # a bar code
        bar = rng.choice((2, 3, 5))
        draw.rectangle((x, y + 30, x + bar - 1, y + 110), INK)
        x += bar + rng.choice((2, 4, 5))
    write(draw, (middle, y + 142), "2 004817 180524", 22, "ms")

    shape = Image.new("L", size)
    shape.paste(255, (50, 55, 550, 1345))
    shape = shape.rotate(-1, Image.Resampling.BICUBIC)
    shadow = ImageChops.offset(shape, 8, 10).filter(ImageFilter.GaussianBlur(10)).point(lambda v: v // 2)
    desk.paste("black", mask=shadow)
    sheet = Image.new("RGB", size, "#f3f0e8")
    sheet.paste(paper, (50, 55))
    desk.paste(sheet.rotate(-1, Image.Resampling.BICUBIC), mask=shape)
    light = fade(size, "#ffffff", "#f2efe9", "#d6d0c6")
    return grainy(rng, ImageChops.multiply(desk, light), 0.6, 0.04)


def page() -> Image.Image:
    """An A4 page at 150 dots an inch: a title, two columns, a footnote."""
    picture = Image.new("L", (1240, 1754), "white")
    draw = ImageDraw.Draw(picture)
    write(draw, (620, 150), "The Light at Gull Point", 54, "ms", bold=True)
    write(
        draw, (620, 205), "A short history of a lighthouse and its keepers by Clara Wendell", 26, "ms", GREY
    )
    draw.line((110, 245, 1130, 245), RULE, 2)

    top, bottom, column_width, size = 305, 1590, 480, 27
    x, y = 110, top
    for block in (HERE / "page.txt").read_text().strip().split("\n\n"):
        heading = block.startswith("#")
        y += 12 if heading and y > top else 0
        for line in wrapped(block.removeprefix("#"), size, column_width):
            if y > bottom - (90 if heading else 0):  # no heading at the foot of a column
                x, y = 650, top
            before, mark, after = line.partition("^1")
            write(draw, (x, y), before, size, bold=heading)
            x_after = x + font(size).getlength(before)
            write(draw, (x_after, y - 10), mark[1:], 16)
            write(draw, (x_after + 17, y), after.strip(), size)
            y += 39
        y += 14

    draw.line((110, 1630, 400, 1630), GREY, 2)
    write(draw, (110, 1656), "1", 15)
    write(draw, (124, 1666), FOOTNOTE, 25)
    write(draw, (620, 1720), "17", 20, "ms", GREY)
    return picture


def diagram() -> Image.Image:
    """How an order is filled: boxes, one question, arrows."""
    picture = Image.new("RGB", (900 * SUPERSAMPLING, 480 * SUPERSAMPLING), "white")
    draw = ImageDraw.Draw(picture)
    write(draw, (900, 100), "How an Order Is Filled", 56, "ms", bold=True)

    def box(x: int, y: int, text: str, fill: str, outline: str) -> None:
        draw.rounded_rectangle((x - 150, y - 75, x + 150, y + 75), 24, fill, outline, 5)
        draw.multiline_text((x, y), text, INK, font(38), "mm", spacing=12, align="center")

    box(220, 340, "Order\nreceived", "#e8eff7", BLUE)
    draw.polygon([(680, 220), (860, 340), (680, 460), (500, 340)], "#fdf0e4", ORANGE, 6)
    write(draw, (680, 340), "In stock?", 38, "mm")
    box(1140, 340, "Pack the\nparcel", "#e8eff7", BLUE)
    box(1580, 340, "Ship to\ncustomer", "#e6f4ea", "#3b8c57")
    box(680, 760, "Order from\nsupplier", "#e8eff7", BLUE)
    box(1140, 760, "Wait for\ndelivery", "#e8eff7", BLUE)

    arrow(draw, (370, 340), (500, 340))
    arrow(draw, (860, 340), (990, 340))
    arrow(draw, (1290, 340), (1430, 340))
    arrow(draw, (680, 460), (680, 685))
    arrow(draw, (830, 760), (990, 760))
    arrow(draw, (1140, 685), (1140, 415))
    write(draw, (925, 322), "Yes", 34, "ms", GREY)
    write(draw, (700, 580), "No", 34, "ls", GREY)
    return picture.reduce(SUPERSAMPLING)


def sign() -> Image.Image:
    """Three lines of large print, which even the demo model reads."""
    picture = Image.new("RGB", (800, 640), "white")
    for row, line in enumerate(("GARDEN MARKET", "COFFEE $3.50", "OPEN 10:00")):
        ImageDraw.Draw(picture).text((120, 240 + 95 * row), line, "black", font(60), "ls")
    return picture


def shapes() -> Image.Image:
    """A circle, a square and a triangle."""
    picture = Image.new("RGB", (800, 640), "#fffdf5")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 240, 260, 440), "#de2424")
    draw.rectangle((330, 130, 490, 290), "#234bdc")
    draw.polygon([(650, 290), (545, 480), (755, 480)], "#1e9b3c")
    return picture


PICTURES = {
    "sign.png": sign,
    "shapes.png": shapes,
    "scene.jpg": scene,
    "invoice.png": invoice,
    "chart.png": chart,
    "receipt.jpg": receipt,
    "page.png": page,
    "diagram.png": diagram,
}


def make(folder: Path) -> None:
    """Write each picture into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw_picture in PICTURES.items():
        options = {"quality": 88} if name.endswith(".jpg") else {"optimize": True}
        draw_picture().save(folder / name, **options)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
