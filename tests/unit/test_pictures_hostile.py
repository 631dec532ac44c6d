"""Pictures made to hurt: bombs, slivers, fragments, and files that are two things."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import numpy as np
import pytest
from phi_vision.media.decode import (
    FORMATS,
    MAX_ASPECT_RATIO,
    MAX_JPEG_SCANS,
    PictureLimits,
    PictureRefused,
    decode,
)
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import resize_and_pad
from phi_vision.model.crops import CropLimit
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tests.support.mutations import FUZZ_FACTOR, mutated_files, seed_files
from tests.support.pictures import encoded, png, reference_picture, with_scans

LIMITS = PictureLimits(max_pixels=1_000_000)
GOOD = reference_picture(40, 30, seed=0)


@pytest.mark.parametrize("size", [(100_000, 100_000), (1001, 1000), (2**31 - 1, 2**31 - 1)])
def test_the_pixel_cap_is_checked_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(PictureRefused, match=r"megapixels|cannot be decoded"):
        decode(png(*size), LIMITS)


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "WEBP", "JPEG"])
def test_the_pixel_cap_holds_for_every_format(image_format: str) -> None:
    over = Image.new("L", (1200, 900)).convert("P" if image_format == "GIF" else "RGB")
    with pytest.raises(PictureRefused, match="1200 x 900 are more than the 1 megapixels"):
        decode(encoded(over, image_format), LIMITS)


def test_a_bomb_within_the_cap_is_just_a_picture() -> None:
    """1:1000 of zeros: what it takes is bounded by the pixel cap."""
    bomb = png(1000, 1000, bytes(1000 * 3001))
    assert len(bomb) < 5000
    assert decode(bomb, LIMITS).size == (1000, 1000)


@pytest.mark.parametrize(
    ("size", "good"), [((1, 100), True), ((1, 101), False), ((505, 5), False), ((5, 500), True)]
)
def test_slivers(size: tuple[int, int], good: bool) -> None:
    data = encoded(Image.new("RGB", size))
    if good:
        assert decode(data, LIMITS).size == size
    else:
        with pytest.raises(PictureRefused, match=f"narrower than 1:{MAX_ASPECT_RATIO}"):
            decode(data, LIMITS)


def test_scans_of_a_jpeg_are_counted_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(with_scans(MAX_JPEG_SCANS), LIMITS).size == GOOD.size
    monkeypatch.setattr(JpegImageFile, "load", None)  # it would be called to decode
    for data in (
        with_scans(MAX_JPEG_SCANS + 1),
        with_scans(200),
        with_scans(200) * 2,
        with_scans(200, before=b"\xff\xff"),  # markers may be filled up
        # libjpeg drops an unknown marker between restarts; no length follows it that could hide scans
        with_scans(200, before=b"\xff\x02\xff"),
    ):
        with pytest.raises(PictureRefused, match=f"a JPEG of more than {MAX_JPEG_SCANS} scans"):
            decode(data, LIMITS)


def test_scans_within_metadata_do_not_count() -> None:
    assert decode(encoded(GOOD, "JPEG", comment=b"\xff\xda" * 1000), LIMITS).size == GOOD.size
    assert decode(encoded(GOOD, "JPEG") + b"\xff\xda" * 1000, LIMITS).size == GOOD.size


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_truncated_files_are_refused(image_format: str, share: float) -> None:
    data = encoded(GOOD, image_format)
    with pytest.raises(PictureRefused):
        decode(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("image_format", FORMATS)
def test_what_follows_the_picture_is_not_looked_at(image_format: str) -> None:
    """Polyglots: a ZIP, a page with a script or a program behind a picture is the picture."""
    data = encoded(GOOD, image_format)
    for tail in (b"PK\x03\x04" + bytes(100), b"<script>alert(1)</script>", b"MZ\x90\x00", b"\x7fELF"):
        assert decode(data + tail, LIMITS).tobytes() == decode(data, LIMITS).tobytes()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n%%EOF", b"GIF89a",
     b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<!DOCTYPE html><img src=x>",
     b"\x1f\x8b" + bytes(50),
     b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x.png'", b"\x93NUMPY" + bytes(100),
     bytes(10_000),
     encoded(GOOD, "PPM"), encoded(GOOD, "ICO"), encoded(GOOD, "TGA"), encoded(GOOD, "SGI"),
     encoded(GOOD, "PCX"),
     encoded(GOOD, "EPS"), encoded(GOOD, "PDF"), encoded(GOOD, "DDS"), encoded(GOOD, "IM"),
     encoded(GOOD, "JPEG2000")],
)  # fmt: skip
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(PictureRefused):
        decode(data, LIMITS)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(image_format: str) -> None:
    colours = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    data = encoded(colours[0], image_format, save_all=True, append_images=colours[1:])
    pixel = decode(data, LIMITS).getpixel((5, 5))
    assert np.abs(np.array(pixel) - (255, 0, 0)).max() <= 4  # lossy WebP is not exact


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled(image_format: str) -> None:
    values = np.array([[0, 255, 256, 32768, 65280, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), image_format)
    assert np.asarray(decode(data, LIMITS))[0].tolist() == [[v >> 8] * 3 for v in values[0].tolist()]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_greys_without_a_scale_are_refused(mode: str) -> None:
    with pytest.raises(PictureRefused, match="no fixed scale"):
        decode(encoded(Image.new(mode, (4, 4)), "TIFF"), LIMITS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    made = decode(encoded(GOOD.convert(mode)), LIMITS)
    assert (made.mode, made.size) == ("RGB", GOOD.size)


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 255))
    assert list(np.asarray(decode(encoded(clear), LIMITS))[0].tolist()) == [[255] * 3, [200, 0, 0]]


def test_pictures_are_turned_upright_and_bad_metadata_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode(encoded(GOOD, "JPEG", exif=exif), LIMITS).size == (GOOD.height, GOOD.width)
    assert (
        decode(encoded(GOOD, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), LIMITS).size == GOOD.size
    )


def test_where_we_differ_from_the_original_on_purpose() -> None:
    """The original's step is Pillow's `convert("RGB")`; see the docstring of `pictures`."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", GOOD.size, (0, 0, 0, 0))
    grey = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    cases: tuple[tuple[bytes, Callable[[Image.Image], bool]], ...] = (
        (encoded(GOOD, "JPEG", exif=exif), lambda image: image.size == GOOD.size),
        (encoded(clear), lambda image: image.getpixel((0, 0)) == (0, 0, 0)),
        (encoded(grey), lambda image: image.getpixel((0, 0)) == (255, 255, 255)),
    )
    for data, original_is in cases:
        with Image.open(io.BytesIO(data)) as opened:
            assert original_is(opened.convert("RGB"))
        assert not original_is(decode(data, LIMITS))


def test_mutated_pictures_are_decoded_or_refused(make_pool: Callable[..., WorkerPool]) -> None:
    """Thousands of damaged files through real workers: a picture within the cap, or a refusal."""
    pool = make_pool(LIMITS, workers=2, request_s=60)
    limit = CropLimit(1)
    outcomes = {"decoded": 0, "refused": 0, "decoder lost": 0}

    async def one(data: bytes) -> None:
        try:
            canvas = await pool.draw(data, limit)
        except PictureRefused as refused:
            outcomes["decoder lost" if "crashed" in str(refused) else "refused"] += 1
        else:
            assert canvas.pixels.shape == (3, 336, 336)
            assert canvas.width * canvas.height <= LIMITS.max_pixels
            outcomes["decoded"] += 1

    async def all_of_them() -> None:
        for data in (data for _, data in seed_files()):
            await pool.draw(data, limit)
        files = list(mutated_files(3000 * FUZZ_FACTOR, seed=FUZZ_FACTOR))
        for start in range(0, len(files), 200):
            await asyncio.gather(*map(one, files[start : start + 200]))
        assert np.array_equal((await pool.draw(encoded(GOOD), limit)).pixels, resize_and_pad(GOOD, 1))

    asyncio.run(all_of_them())
    print(f"mutated pictures: {outcomes}")
    # Both ends of the scale were reached: the damage is neither always fatal nor always harmless.
    assert min(outcomes["decoded"], outcomes["refused"]) > 100 * FUZZ_FACTOR
    assert outcomes["decoder lost"] == 0


def test_the_mutator_repeats_itself() -> None:
    assert list(mutated_files(20, seed=7)) == list(mutated_files(20, seed=7))
    assert Image.open(io.BytesIO(seed_files()[0][1])).size == (61, 43)
