"""Pages of PDF files, rendered by pdfium. Runs in a worker process, which may die of it.

No form environment is set up, and pdfium is built without JavaScript and XFA. Fields are drawn with what the
file says that they show.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from phi_vision.media.decode import PictureRefused
from phi_vision.media.view import WHOLE, Region, Rotation

if TYPE_CHECKING:  # imported where it is used: a worker that draws pictures only does without
    import pypdfium2

_HEADER = b"%PDF-"
_HEADER_WITHIN_BYTES = 1024  # where readers look for it
_POINTS_PER_INCH = 72
# In a file that pdfium has written:
_LAYER = b"/OCG"  # the type of one
_TRAILER_BYTES = 512
_FILE_ID = re.compile(rb"/ID *\[ *<[0-9A-Fa-f]*> *<[0-9A-Fa-f]*> *\]")  # drawn by lot


def is_pdf(data: bytes) -> bool:
    """Whether the file's header says so."""
    return _HEADER in data[:_HEADER_WITHIN_BYTES]


def count_pages(data: bytes) -> int:
    """As many as the file says that it has; none of them is looked at.

    Raises:
        PictureRefused: damaged, encrypted, or without pages.
    """
    with _opened(data) as document:
        return len(document)


class PdfPage:
    """A page that is open. Sizes are of the page as it is shown: cut to its crop box, turned by /Rotate."""

    def __init__(self, page: pypdfium2.PdfPage) -> None:
        self._page = page
        self.width_inches = page.get_width() / _POINTS_PER_INCH
        self.height_inches = page.get_height() / _POINTS_PER_INCH
        if not (self.width_inches > 0 and self.height_inches > 0):
            raise PictureRefused("the crop box of its page is empty; remove it")

    def render(
        self, width: int, height: int, rotation: Rotation = 0, region: Region | None = None
    ) -> Image.Image:
        """The page on white, at exactly `width` x `height` pixels.

        Args:
            width: of what is shown: of `region`, if there is one.
            height: likewise.
            rotation: degrees clockwise that the page is turned by.
            region: the part that is shown, of the page as it is turned; no other part is rendered.
        """
        import pypdfium2
        from pypdfium2 import raw

        left, top, right, bottom = region or WHOLE
        page_width, page_height = round(width / (right - left)), round(height / (bottom - top))
        bitmap = pypdfium2.PdfBitmap.new_native(width, height, raw.FPDFBitmap_BGRx, rev_byteorder=True)
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
        raw.FPDF_RenderPageBitmap(
            bitmap,
            self._page,
            -round(left * page_width),
            -round(top * page_height),
            page_width,
            page_height,
            rotation // 90,
            raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER,
        )
        return Image.frombuffer("RGB", (width, height), bytes(bitmap.buffer), "raw", "RGBX", bitmap.stride, 1)


@contextlib.contextmanager
def opened_page(data: bytes, page: int) -> Iterator[PdfPage]:
    """A page of the file, counted from 0.

    Raises:
        PictureRefused: the file is damaged or encrypted, or has no such page.
    """
    with _opened_at(data, page) as document:
        yield PdfPage(_with_fields(document, page))


def extract_page(data: bytes, page: int) -> bytes:
    """A PDF of this page alone, counted from 0. Form fields become part of its contents.

    Raises:
        PictureRefused: as `opened_page`.
    """
    import pypdfium2
    from pypdfium2 import raw

    raw.FPDF_SetSandBoxPolicy(raw.FPDF_POLICY_MACHINETIME_ACCESS, False)  # a new file has the time in it
    with _opened_at(data, page) as document, pypdfium2.PdfDocument.new() as alone:
        _with_fields(document, page).close()
        alone.import_pages(document, [page])
        saved = _saved(alone)
        if _LAYER in saved:  # which layers are hidden stands in the file's catalogue, which is not imported
            for other in reversed(range(len(document))):
                if other != page:
                    document.del_page(other)
            saved = _saved(document)
        return saved


def _saved(document: pypdfium2.PdfDocument) -> bytes:
    """Not encrypted, and the same bytes each time."""
    from pypdfium2 import raw

    out = io.BytesIO()
    document.save(out, flags=raw.FPDF_REMOVE_SECURITY)
    data = out.getvalue()
    return data[:-_TRAILER_BYTES] + _FILE_ID.sub(b"", data[-_TRAILER_BYTES:])


def _with_fields(document: pypdfium2.PdfDocument, number: int) -> pypdfium2.PdfPage:
    """The page, its fields made part of its contents: without a form environment pdfium leaves them out."""
    from pypdfium2 import raw

    page = document[number]
    if not _has_fields(page):
        return page
    # Annotations that come without an appearance get one when they are drawn for the first time.
    PdfPage(page).render(1, 1)
    raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY)
    page.close()
    return document[number]


def _has_fields(page: pypdfium2.PdfPage) -> bool:
    from pypdfium2 import raw

    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        kind = raw.FPDFAnnot_GetSubtype(annotation)
        raw.FPDFPage_CloseAnnot(annotation)
        if kind == raw.FPDF_ANNOT_WIDGET:
            return True
    return False


@contextlib.contextmanager
def _opened_at(data: bytes, page: int) -> Iterator[pypdfium2.PdfDocument]:
    """A file that has this page; what goes wrong with the page is a refusal."""
    import pypdfium2

    with _opened(data) as document:
        if page >= len(document):
            raise PictureRefused(f"it has no page {page + 1}, only {len(document)}")
        try:
            yield document
        except pypdfium2.PdfiumError as error:
            raise PictureRefused(f"its page {page + 1} is damaged; save the PDF anew") from error


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[pypdfium2.PdfDocument]:
    import pypdfium2
    from pypdfium2 import raw

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise PictureRefused(
            {
                raw.FPDF_ERR_PASSWORD: "the PDF is encrypted; remove its password",
                raw.FPDF_ERR_SECURITY: "the PDF is encrypted in a way that is unknown here; remove that",
            }.get(error.err_code, "the PDF is damaged or has no pages; save it anew")
        ) from error
    with document:
        yield document
