"""One page of any file, drawn onto its canvas: pictures, frames of TIFF files, pages of PDF files."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from phi_vision.media import decode, pdf
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.levelling import SlantingPart, slanting_part
from phi_vision.media.view import WHOLE, PageView, Region, Rotation
from phi_vision.model.canvas import draw_canvas, pad, size_on_grid
from phi_vision.model.crops import CropLimit
from phi_vision.model.geometry import crop_grid
from phi_vision.spec import PHI_3_5_VISION

_TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
_FAST = 1  # of zlib's levels; higher ones take several times as long and save a tenth
_UNITS_PER_INCH = 7200  # sizes of PDF pages in hundredths of a point: geometry takes whole numbers


@dataclass(frozen=True)
class Drawing:
    """What a worker has drawn: see `model.canvas.Canvas`, which the server makes of it."""

    canvas: Image.Image
    width: int
    height: int
    num_crops: int
    dpi: float | None


def may_have_pages(data: bytes) -> bool:
    """Whether the file is of a format that can have several; `count_pages` tells of others without a look."""
    return pdf.is_pdf(data) or decode.is_tiff(data)


def count_pages(data: bytes) -> int:
    """Pages of a PDF, frames of a TIFF, one of any other picture: animations show their first.

    Raises:
        PictureRefused: a PDF or TIFF that cannot be opened.
    """
    if pdf.is_pdf(data):
        return pdf.count_pages(data)
    return decode.count_frames(data) if decode.is_tiff(data) else 1


def extract_page(data: bytes, page: int, limits: PictureLimits) -> bytes:
    """One page as a file by itself: a PDF of a PDF, a PNG of a TIFF or another picture.

    Raises:
        PictureRefused: the file cannot be read, or has no such page.
    """
    if pdf.is_pdf(data):
        return pdf.extract_page(data, page)
    picture = decode.decode(data, limits, page)
    dpi = picture.info.get("dpi")
    red, green, blue = (band.tobytes() for band in picture.split())
    if red == green == blue:  # a scan in black and white: a third of the bytes
        picture = picture.getchannel(0)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=_FAST, **({"dpi": dpi} if dpi else {}))
    return out.getvalue()


def draw(data: bytes, view: PageView, limit: CropLimit, limits: PictureLimits) -> Drawing:
    """Draw what `view` shows of the file onto its crop grid.

    A PDF page is rendered at the resolution of the grid. Its size in pixels, which decides about the grid,
    is the size that it has at full crops, whatever `limit` is.

    Raises:
        PictureRefused: the file cannot be read, or has no such page or part.
    """
    left, top, right, bottom = view.region or WHOLE
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise PictureRefused("the part of it that is asked for is empty")
    return _draw_pdf(data, view, limit) if pdf.is_pdf(data) else _draw_picture(data, view, limit, limits)


def shown(picture: Image.Image, view: PageView) -> Image.Image:
    """What `view` shows of a picture, at the picture's own resolution and without its frame."""
    if view.rotation:
        picture = picture.transpose(_TURNS[view.rotation])
    if view.slant:
        part = slanting_part(*picture.size, view.slant, view.region or WHOLE)
        size = max(1, round(part.width)), max(1, round(part.height))
        return part.draw(picture, 0, 1, size)
    return picture if view.region is None else picture.crop(_pixels(view.region, *picture.size))


def _draw_picture(data: bytes, view: PageView, limit: CropLimit, limits: PictureLimits) -> Drawing:
    picture = decode.decode(data, limits, view.page)
    part = shown(picture, view)
    size = view.frame.size(*part.size) if view.frame else part.size
    num_crops = limit.num_crops(*size)
    return Drawing(draw_canvas(part, num_crops, size), *size, num_crops, _dpi(picture))


def _draw_pdf(data: bytes, view: PageView, limit: CropLimit) -> Drawing:
    with pdf.opened_page(data, view.page) as page:
        inches = (page.width_inches, page.height_inches)
        decode.check_aspect(*inches, f"page {view.page + 1} of {inches[0]:.3g} x {inches[1]:.3g} inches")
        if view.rotation in (90, 270):
            inches = inches[::-1]
        part = slanting_part(*inches, view.slant, view.region or WHOLE)
        inner = max(1, round(part.width * _UNITS_PER_INCH)), max(1, round(part.height * _UNITS_PER_INCH))
        outer = view.frame.size(*inner) if view.frame else inner
        full = crop_grid(*outer, PHI_3_5_VISION.num_crops)
        width, height = full.resized_width, full.resized_height
        num_crops = limit.num_crops(width, height)
        grid = crop_grid(width, height, num_crops)
        size = size_on_grid(inner, outer, grid)
        if view.slant:
            rendered = _rendered_level(page, view.rotation, inches, part, size)
        else:
            rendered = page.render(*size, view.rotation, view.region)
    dpi = max(size_on_grid(inner, outer, full)) / max(part.width, part.height)
    return Drawing(pad(rendered, grid), width, height, num_crops, dpi)


def _rendered_level(
    page: pdf.PdfPage,
    rotation: Rotation,
    inches: tuple[float, float],
    part: SlantingPart,
    size: tuple[int, int],
) -> Image.Image:
    """A part of a page that slants, in `size` pixels; no more of the page is rendered than around it."""
    width, height = inches
    left, top, right, bottom = part.bounds()
    left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if left >= right or top >= bottom:
        return Image.new("RGB", size, "white")
    zoom = size[0] / part.width
    region = Region(left / width, top / height, right / width, bottom / height)
    around = max(1, round((right - left) * zoom)), max(1, round((bottom - top) * zoom))
    return part.draw(page.render(*around, rotation, region), complex(left, top), zoom, size)


def _pixels(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """The region in whole pixels, at least one."""
    left, top = min(round(region.left * width), width - 1), min(round(region.top * height), height - 1)
    return left, top, max(left + 1, round(region.right * width)), max(top + 1, round(region.bottom * height))


def _dpi(picture: Image.Image) -> float | None:
    """Of the file, where it gives one that is the same in both directions."""
    try:
        across, down = (float(value) for value in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return across if 1 <= across <= 10_000 and round(across) == round(down) else None
