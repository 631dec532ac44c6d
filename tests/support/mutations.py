"""Damaged picture files in any number, the same ones for the same seed."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from typing import Any

from tests.support.pictures import encoded, reference_picture

# `make test-all` and `make fuzz` raise it; `make test` runs the same checks on fewer inputs.
FUZZ_FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
# `make fuzz` sets it: other requests each time. All else runs the same ones, so that no run fails by chance.
FUZZ_RANDOM = bool(os.environ.get("FUZZ_RANDOM"))

_EXTREMES = (0x00, 0x01, 0x7F, 0x80, 0xFF)


def seed_files() -> list[tuple[str, bytes]]:
    """Small valid files over the formats, their colour modes and compressions."""
    picture = reference_picture(61, 43, seed=1)
    frames = [reference_picture(61, 43, seed=i) for i in (2, 3)]
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "1", {}), ("PNG", "I;16", {}),
        ("PNG", "RGB", {"save_all": True, "append_images": frames}),
        ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}),
        ("GIF", "P", {}), ("GIF", "P", {"save_all": True, "append_images": frames}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": frames}),
        ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "L",
         {"compression": "jpeg"}),
        ("TIFF", "RGB", {"compression": "tiff_deflate"}), ("TIFF", "1", {"compression": "group4"}),
        ("BMP", "RGB", {}), ("BMP", "P", {}), ("BMP", "1", {}),
    ]  # fmt: skip
    return [(kind, encoded(picture.convert("L" if mode == "I;16" else mode).convert(mode), kind, **options))
            for kind, mode, options in made]  # fmt: skip


def mutated_files(count: int, seed: int) -> Iterator[bytes]:
    """`count` files, each a valid one with one to eight things wrong."""
    chance = random.Random(seed)
    seeds = seed_files()
    for _ in range(count):
        kind, data = chance.choice(seeds)
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            _damage(damaged, chance)
        # A PNG whose checksums are wrong is refused at once; mend them, so that the damage gets further.
        yield _mended(bytes(damaged)) if kind == "PNG" and chance.random() < 0.8 else bytes(damaged)


def _damage(data: bytearray, chance: random.Random) -> None:
    if len(data) < 16:
        return
    # Half of the damage goes to the first bytes: sizes, offsets and tables stand there.
    at = chance.randrange(min(len(data), 128) if chance.random() < 0.5 else len(data))
    length = chance.choice((1, 2, 4, 16, 64))
    match chance.randrange(7):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            data[at : at + length] = bytes([chance.choice(_EXTREMES)]) * length
        case 2:
            data[at : at + length] = chance.randbytes(length)
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = chance.randbytes(length)
        case 5:
            data[at:at] = data[at : at + length * 16]
        case 6 if chance.random() < 0.3:
            del data[at:]


def _mended(data: bytes) -> bytes:
    """A PNG with the right checksum for each chunk that is still whole."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        out += data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out) + data[at:]
