"""PDF files that are odd or hostile: each is drawn or refused, and costs no other request anything."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from tests.support.pdf import Page, encrypted, file_of, pdf, stream, text_page

_CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
_LEVELS = 5000
_BOMB_BYTES = 1 << 30


def refused() -> dict[str, tuple[bytes, str]]:
    """By name: a file that cannot be drawn, and what the message says. None of them takes long."""
    return {
        "encrypted": (encrypted(pdf(Page())), "encrypted; remove its password"),
        "cut short": (pdf(text_page("HELLO"))[:200], "damaged"),
        "header alone": (b"%PDF-1.7\n", "damaged"),
        "no pages": (pdf(), "no pages"),
        "tree of itself": (_tree({2: b"<< /Type /Pages /Kids [2 0 R 2 0 R] >>"}), "no pages"),
        "tree of itself, counted": (
            _tree({2: b"<< /Type /Pages /Count 5 /Kids [2 0 R 2 0 R] >>"}),
            "page 1 is damaged",
        ),
        "deep tree": (_deep_tree("/Count 1"), "page 1 is damaged"),
        "sliver": (pdf(Page(size=(10_000, 3))), "narrower than 1:100"),
        "crop box beside the page": (pdf(Page(entries="/CropBox [4000 4000 5000 5000]")), "crop box"),
        "stream that unpacks to a gigabyte": (_one_page(_packed_twice(), {}), "ran out of memory"),
    }


def endless() -> dict[str, bytes]:
    """By name: a file whose page takes longer than any limit."""
    doubling = {5 + i: _form(b"/X Do " * 10, 6 + i) for i in range(20)}
    return {
        "form within itself": _one_page(stream(b"/X Do"), {5: _form(b"/X Do /X Do", 5)}),
        "forms that multiply": _one_page(stream(b"/X Do"), {**doubling, 25: _form(b"0 0 9 9 re f", 25)}),
    }


def odd() -> dict[str, bytes]:
    """By name: a file whose first page is drawn although something is odd about it."""
    dots = b" ".join(b"%d %d 5 5 re f" % (i % 595, i // 8) for i in range(4000))
    forms = {10 + i: _form(b"0 0 5 5 re f", 4) for i in range(4000)}
    places = b" ".join(b"q 1 0 0 1 %d %d cm /X%d Do Q" % (i % 195, i // 20, i) for i in range(4000))
    fonts = (
        "/Font << /F << /Type /Font /Subtype /TrueType /BaseFont /NoSuchFont >> "
        "/G << /Type /Font /Subtype /Type1 /BaseFont /Lost /FontDescriptor << /FontFile 99 0 R >> >> >>"
    )
    return {
        "200 inches": pdf(text_page("HELLO", size=(14_400, 14_400), font_pt=900)),
        "tiny": pdf(text_page("HELLO", size=(0.5, 0.5))),
        "says that it has more pages": pdf(text_page("HELLO"), count=10_000),
        "says that it has fewer than none": pdf(text_page("HELLO"), count=-5),
        "4,000 rectangles": pdf(Page(dots)),
        "4,000 forms": _one_page(stream(places), forms, {f"X{i}": 10 + i for i in range(4000)}),
        "fonts are missing": pdf(
            Page(b"BT /F 24 Tf 60 700 Td (HELLO) Tj /G 24 Tf 0 -50 Td (WORLD) Tj ET", resources=fonts)
        ),
        "deep arrays": pdf(Page(b"[" * 1_000_000)),
        "crop box turned around": pdf(Page(b"200 200 50 50 re f", entries="/CropBox [400 400 100 100]")),
        "no contents": pdf(Page(b"")),
        "contents are noise": pdf(Page(bytes(range(256)) * 100)),
    }


def _tree(objects: Mapping[int, bytes]) -> bytes:
    return file_of({1: _CATALOG, **objects})


def _deep_tree(entries: str) -> bytes:
    nodes = {2 + i: f"<< /Type /Pages {entries} /Kids [{3 + i} 0 R] >>".encode() for i in range(_LEVELS)}
    return _tree({**nodes, 2 + _LEVELS: b"<< /Type /Page /MediaBox [0 0 100 100] >>"})


def _one_page(content: bytes, objects: Mapping[int, bytes], names: Mapping[str, int] | None = None) -> bytes:
    xobjects = " ".join(f"/{name} {number} 0 R" for name, number in (names or {"X": 5}).items())
    page = (
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R "
        f"/Resources << /XObject << {xobjects} >> >> >>"
    )
    pages = b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"
    return _tree({2: pages, 3: page.encode(), 4: content, **objects})


def _form(content: bytes, of: int) -> bytes:
    """A form that can draw another."""
    resources = f"/Resources << /XObject << /X {of} 0 R >> >>"
    return stream(content, f"/Type /XObject /Subtype /Form /BBox [0 0 200 200] {resources}")


def _packed_twice() -> bytes:
    packer = zlib.compressobj(9)
    megabyte = packer.compress(b"q Q\n" * (1 << 18)) + packer.flush(zlib.Z_FULL_FLUSH)
    once = megabyte[:2] + megabyte[2:] * (_BOMB_BYTES >> 20) + packer.flush()
    twice = zlib.compress(once, 9)
    head = b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n" % len(twice)
    return head + twice + b"\nendstream"
