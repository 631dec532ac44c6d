"""Files and URLs that the user names -> pictures and pages of documents to send."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureLimits, PictureRefused, read_header
from phi_vision.media.fetch import FetchLimits, FetchRefused, fetch
from phi_vision.media.pages import may_have_pages
from phi_vision.media.pdf import is_pdf
from phi_vision.tasks import page_ranges

MAX_FILE_BYTES = int(Limits.max_body_mb * 1e6) * 3 // 4  # in base64 it fills a request
_FETCH_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Input:
    """A picture or a document as given on the command line, or one page of it."""

    name: str
    url: str  # data URL
    size: tuple[int, int] | None  # of a picture: width and height in pixels, upright
    num_pages: int | None = None  # of a document: a PDF, or a TIFF of several pages
    page: int | None = None  # which of them, from 1

    @property
    def part(self) -> dict[str, Any]:
        """It as a content part of a chat message."""
        if self.num_pages is None:
            return {"type": "image_url", "image_url": {"url": self.url}}
        file = {"filename": Path(self.name).name, "file_data": self.url, "pages": str(self.page)}
        return {"type": "file", "file": file}


def load(name: str) -> Input:
    """Read a picture or document from a file or an http(s) address.

    Of a picture only the header is looked at; the pages of a document are counted in a process of its own.

    Raises:
        UsageError: it cannot be had, or is none of the formats that are taken.
    """
    data = read(name)
    try:
        num_pages = _count_pages(data) if may_have_pages(data) else 1
        mime, size = identify(data)
    except PictureRefused as refused:
        raise not_a_picture(name, refused) from refused
    is_picture = size is not None and num_pages == 1
    return Input(name, data_url(data, mime), size, None if is_picture else num_pages)


def read(name: str) -> bytes:
    """What is in a file, or behind an http(s) address.

    Raises:
        UsageError: it cannot be had.
    """
    remote = name[:8].lower().startswith(("http://", "https://"))
    return _fetched(name) if remote else _read(name)


def identify(data: bytes) -> tuple[str, tuple[int, int] | None]:
    """The MIME type and, of a picture, its width and height in pixels, upright; only its header is looked at.

    Raises:
        PictureRefused: it is none of the formats that are taken.
    """
    if is_pdf(data):
        return "application/pdf", None
    image_format, width, height = read_header(data)
    return Image.MIME.get(image_format, "application/octet-stream"), (width, height)


def not_a_picture(name: str, refused: PictureRefused) -> UsageError:
    """What the user is told about a file that is refused."""
    return UsageError(f"{one_line(name)} is not a picture that can be read: {refused}")


def data_url(data: bytes, mime: str) -> str:
    """The file as a URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def choose_pages(given: Input, pages: str | None) -> Sequence[Input]:
    """One input for each page asked for; a picture has one page.

    Args:
        given: from `load`.
        pages: as `page_ranges` has it; None for all.

    Raises:
        UsageError: there are more than are read without being asked for.
        RequestError: the text is wrong, or there is no such page.
    """
    selected = page_ranges.select(pages, given.num_pages or 1)
    if given.num_pages is None:
        return [given]
    most = Limits.max_pages
    if pages is None and given.num_pages > most:
        raise UsageError(
            f"{one_line(given.name)} has {given.num_pages} pages; choose some, as in --pages 1-{most}"
        )
    return [replace(given, page=page + 1) for page in itertools.chain.from_iterable(selected)]


def _count_pages(data: bytes) -> int:
    from phi_vision.media.worker_pool import WorkerPool

    limits = Limits()
    pool = WorkerPool(PictureLimits(limits.max_image_pixels), 1, limits.decode_timeout_s)
    try:
        return asyncio.run(pool.count_pages(data))
    finally:
        pool.close()


def _read(name: str) -> bytes:
    try:
        with Path(name).expanduser().open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # the latter: no such user's home
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {one_line(name)}: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{one_line(name)} is larger than {MAX_FILE_BYTES / 1e6:g} MB")
    return data


def _fetched(url: str) -> bytes:
    limits = FetchLimits(MAX_FILE_BYTES, _FETCH_TIMEOUT_S, trust_first_host=True)  # the user named it
    try:
        return asyncio.run(fetch(url, limits))
    except FetchRefused as refused:
        raise UsageError(f"cannot fetch {one_line(url)}: {one_line(str(refused))}") from refused
