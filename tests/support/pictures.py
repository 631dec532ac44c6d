"""Small pictures for tests, drawn on the spot, and the ways to send one."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def reference_picture(width: int, height: int, seed: int) -> Image.Image:
    """The deterministic picture behind `data/image_processor.json`: smooth waves and hard-edged blocks."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 127 + 127 * np.sin((x * (3 + seed) + y) / max(width, 1) * 6.0)
    green = 127 + 127 * np.cos((y * (2 + seed) - x) / max(height, 1) * 5.0)
    blue = ((x // 17 + y // 13 + seed) % 5) * 51.0
    return Image.fromarray(np.clip(np.round(np.stack([red, green, blue], -1)), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_part(image: Image.Image | bytes, detail: str | None = None) -> dict[str, Any]:
    """A picture as a content part of a chat message."""
    data = image if isinstance(image, bytes) else encoded(image)
    image_url = {"url": data_url(data)} | ({"detail": detail} if detail else {})
    return {"type": "image_url", "image_url": image_url}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: dict[str, Any] | str) -> Any:
    """A user message of these parts, a dict; the SDK has a type of its own for each part."""
    return {"role": "user", "content": [text_part(p) if isinstance(p, str) else p for p in parts]}


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that says it has this size, whatever is in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def with_scans(count: int, before: bytes = b"") -> bytes:
    """A progressive JPEG that repeats its last scan until there are so many."""
    header, *scans = encoded(reference_picture(40, 30, seed=0), "JPEG", progressive=True).split(b"\xff\xda")
    scans[-1] = scans[-1].removesuffix(b"\xff\xd9")
    scans += [scans[-1] + before] * (count - len(scans))
    return b"\xff\xda".join([header, *scans]) + b"\xff\xd9"
