"""PDF files for tests, written by hand: pages that show a picture, text or anything else."""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import Image

A4 = (595, 842)  # points


@dataclass(frozen=True)
class Page:
    """A page: its content stream, and what that refers to.

    Args:
        content: PDF operators.
        size: of the media box, in points.
        picture: drawn by `/P Do` onto a unit square.
        entries: more of the page's dictionary, such as `/Rotate 90`.
        resources: more of the page's resources, such as `/XObject << /X 5 0 R >>`.
    """

    content: bytes = b""
    size: tuple[float, float] = A4
    picture: Image.Image | None = None
    entries: str = ""
    resources: str = "/Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"


def picture_page(picture: Image.Image, size: tuple[float, float] | None = None, entries: str = "") -> Page:
    """A page that shows one picture and nothing else, by default a point for each pixel."""
    width, height = size or picture.size
    return Page(f"{width} 0 0 {height} 0 0 cm /P Do".encode(), (width, height), picture, entries)


def text_page(*lines: str, size: tuple[float, float] = A4, font_pt: float = 24, entries: str = "") -> Page:
    """A page of lines of text, in a font that is not embedded."""
    show = b" T* ".join(b"(%s) Tj" % line.encode("latin-1") for line in lines)
    start = b"BT /F %g Tf %g TL 60 %g Td " % (font_pt, 1.5 * font_pt, size[1] - 60 - font_pt)
    return Page(start + show + b" ET", size, entries=entries)


def pdf(*pages: Page | Image.Image, count: int | None = None, trailer: str = "") -> bytes:
    """A PDF file of these pages; a picture stands for a page that shows it.

    Args:
        pages: in order.
        count: of pages, as the file says it.
        trailer: more of the trailer's dictionary.
    """
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]  # numbers 1 and 2

    def add(body: bytes) -> int:
        objects.append(body)
        return len(objects)

    kids = []
    for page in pages:
        if isinstance(page, Image.Image):
            page = picture_page(page)
        resources = page.resources
        if page.picture is not None:
            resources += f" /XObject << /P {add(_image(page.picture))} 0 R >>"
        content = add(stream(page.content))
        kids.append(
            add(
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {page.size[0]:g} {page.size[1]:g}] "
                f"/Contents {content} 0 R /Resources << {resources} >> {page.entries} >>".encode()
            )
        )
    listed = " ".join(f"{kid} 0 R" for kid in kids)
    objects[1] = (
        f"<< /Type /Pages /Count {len(kids) if count is None else count} /Kids [{listed}] >>".encode()
    )
    return file_of(dict(enumerate(objects, 1)), trailer)


def stream(data: bytes, entries: str = "") -> bytes:
    """A stream object, compressed."""
    packed = zlib.compress(data)
    head = f"<< /Length {len(packed)} /Filter /FlateDecode {entries} >>"
    return head.encode() + b"\nstream\n" + packed + b"\nendstream"


def file_of(objects: Mapping[int, bytes], trailer: str = "") -> bytes:
    """A PDF file of objects by number; 1 is the catalogue."""
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    offsets = {}
    for number, body in objects.items():
        offsets[number] = out.tell()
        out.write(b"%d 0 obj\n" % number + body + b"\nendobj\n")
    start = out.tell()
    out.write(b"xref\n0 1\n0000000000 65535 f \n")
    for number, offset in offsets.items():
        out.write(b"%d 1\n%010d 00000 n \n" % (number, offset))
    size = max(objects) + 1
    out.write(f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def encrypted(data: bytes) -> bytes:
    """A file that `pdf` made, with an `/Encrypt` entry whose password nobody knows."""
    secret = "<" + "ab" * 32 + ">"
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O {secret} /U {secret} >> /ID [<00> <00>] "
    return data.replace(b"/Root 1 0 R", lock.encode() + b"/Root 1 0 R")


_PADDING = bytes.fromhex(  # what PDF fills passwords up with
    "28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a"
)


def without_password(data: bytes) -> bytes:
    """A file that `pdf` made, encrypted with an empty password: all may open it, none print or change it."""
    owner, file_id, permissions = bytes(range(32)), b"id", -64
    lock = owner + permissions.to_bytes(4, "little", signed=True) + file_id
    key = hashlib.md5(_PADDING + lock).digest()[:5]

    def encrypt(found: re.Match[bytes]) -> bytes:
        number, head, content = found.groups()
        own = hashlib.md5(key + int(number).to_bytes(3, "little") + bytes(2)).digest()[:10]
        return b"%s 0 obj\n%s%s\nendstream" % (number, head, _rc4(own, content))

    one_line_head = rb"(\d+) 0 obj\n(<<[^\n]*>>\nstream\n)(.*?)\nendstream"
    data = re.sub(one_line_head, encrypt, data, flags=re.DOTALL)  # of the same length
    secrets = f"/O <{owner.hex()}> /U <{_rc4(key, _PADDING).hex()}>"
    entry = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P {permissions} {secrets} >> "
    return data.replace(b"/Root 1 0 R", f"{entry} /ID [<{file_id.hex()}> <00>] /Root 1 0 R".encode())


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def scanned(pages: Iterable[Image.Image], dpi: float = 200) -> bytes:
    """A PDF as scanners make it: a JPEG a page."""
    first, *others = pages
    out = io.BytesIO()
    first.save(out, "PDF", save_all=True, append_images=others, resolution=dpi)
    return out.getvalue()


def _image(picture: Image.Image) -> bytes:
    picture = picture.convert("RGB")
    entries = (
        f"/Type /XObject /Subtype /Image /Width {picture.width} /Height {picture.height} "
        "/ColorSpace /DeviceRGB /BitsPerComponent 8"
    )
    return stream(picture.tobytes(), entries)
