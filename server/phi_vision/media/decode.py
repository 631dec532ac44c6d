"""Decode a picture that a stranger sent: few formats, bounded size, always RGB. Pillow only.

On purpose this is not what the original processor does, which is Pillow's `convert("RGB")` alone:
pictures are turned upright by their EXIF orientation (the original sees them as they are stored),
transparent pixels lie on white (the original shows the colour stored under them, often black), and
16-bit greys keep their high byte (the original clips all above 255 to white). Any other picture is the
same in both.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow's other decoders are rarely looked at
MAX_ASPECT_RATIO = 100  # of the longer side to the shorter; more is a sliver of less than a patch

_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Each scan of a JPEG costs a pass over all of its pixels, however short it is. Encoders make up to 20.
MAX_JPEG_SCANS = 32
_JPEG_START_OF_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")  # all but those that have no length


class PictureRefused(Exception):
    """Not a picture that is taken; the message says why and can be shown to the client."""


@dataclass(frozen=True)
class PictureLimits:
    """What one picture may be."""

    max_pixels: int


def decode(data: bytes, limits: PictureLimits, page: int = 0) -> Image.Image:
    """The picture as RGB, upright, transparency on white; of an animation the first frame.

    Pages, counted from 0, are the frames of a TIFF; any other picture has one.

    16-bit greys are scaled to 8 bits by their high byte, as Pillow does with 16-bit colours.

    Raises:
        PictureRefused: another format, too many pixels or scans, too narrow, damaged or truncated, or
            without this page.
    """
    with _opened(data) as opened:
        _turn_to(opened, page)
        _check_size(opened.width, opened.height, limits)
        if isinstance(opened, JpegImageFile):
            _check_scans(data)
        opened.load()
        with contextlib.suppress(Exception):  # bad metadata does not spoil a good picture
            ImageOps.exif_transpose(opened, in_place=True)
        return _rgb(opened)


def read_header(data: bytes) -> tuple[str, int, int]:
    """Format, width and height of the upright picture, without decoding it.

    Raises:
        PictureRefused: another format, or a damaged header.
    """
    with _opened(data) as opened:
        width, height = opened.size
        orientation = None
        if opened.format != "TIFF":  # there Pillow's size is upright already
            with contextlib.suppress(Exception):
                # Not the PNG class's own method, which decodes to find what stands behind the pixels.
                orientation = Image.Image.getexif(opened).get(ExifTags.Base.Orientation)
        sideways = orientation in (5, 6, 7, 8)
        return opened.format or "", *((height, width) if sideways else (width, height))


def is_tiff(data: bytes) -> bool:
    """Whether the file's header says so."""
    return data.startswith(_TIFF_HEADERS)


def count_frames(data: bytes) -> int:
    """Pages of a TIFF, without decoding them.

    Raises:
        PictureRefused: another format, or a damaged header.
    """
    with _opened(data) as opened:
        return getattr(opened, "n_frames", 1)


def check_aspect(width: float, height: float, name: str) -> None:
    """Refuse slivers.

    Raises:
        PictureRefused: the longer side is more than 100 times the shorter one.
    """
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PictureRefused(f"{name} is narrower than 1:{MAX_ASPECT_RATIO}")


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture with its header read; what goes wrong with it is a refusal."""
    Image.MAX_IMAGE_PIXELS = None  # the cap in `decode` is the one that counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                yield opened
        except PictureRefused:
            raise
        except UnidentifiedImageError:
            raise PictureRefused(f"it is none of {', '.join(FORMATS)}") from None
        except MemoryError:
            raise PictureRefused("decoding it needs too much memory") from None
        except Exception as error:  # decoders raise anything on damaged files
            raise PictureRefused(f"it cannot be decoded: {error}") from error


def _check_size(width: int, height: int, limits: PictureLimits) -> None:
    if width < 1 or height < 1:
        raise PictureRefused("it has no pixels")
    if width * height > limits.max_pixels:
        raise PictureRefused(
            f"{width} x {height} are more than the {limits.max_pixels / 1e6:g} megapixels taken here"
        )
    check_aspect(width, height, f"{width} x {height}")


def _turn_to(opened: Image.Image, page: int) -> None:
    if page == 0:
        return
    try:
        if opened.format != "TIFF":
            raise EOFError
        opened.seek(page)
    except EOFError:
        raise PictureRefused(f"it has no page {page + 1}") from None


def _check_scans(data: bytes) -> None:
    """Walk a JPEG's markers as libjpeg does; those of pictures inside its metadata do not count."""
    at, scans = 0, 0
    while (found := _JPEG_MARKER.search(data, at)) and (marker := found[1][0]) != _JPEG_END:
        scans += marker == _JPEG_START_OF_SCAN
        if scans > MAX_JPEG_SCANS:
            raise PictureRefused(f"it is a JPEG of more than {MAX_JPEG_SCANS} scans")
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("I", "F"):
        raise PictureRefused("32-bit greys have no fixed scale; send 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, "white")
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat
    return image.convert("RGB")
