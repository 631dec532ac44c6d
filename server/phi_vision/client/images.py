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

    @property
    def document(self) -> dict[str, Any]:
        """The fields of a request to `/v1/ocr` that say what to read."""
        kind = "image_url" if self.num_pages is None else "document_url"
        pages = {} if self.page is None else {"pages": [self.page - 1]}
        return {"document": {"type": kind, kind: self.url}, **pages}


def load(name: str) -> Input:
    """Read a picture or document from a file or an http(s) address.

    Of a picture only the header is looked at; the pages of a document are counted in a process of its own.

    Raises:
        UsageError: it cannot be had, or is none of the formats that are taken.
    """
    data = asyncio.run(read(name, MAX_FILE_BYTES))
    try:
        return as_input(name, data, _count_pages(data) if may_have_pages(data) else 1)
    except PictureRefused as refused:
        raise UsageError(f"{one_line(name)} is not a picture that can be read: {refused}") from refused


def is_url(name: str) -> bool:
    """Whether this is fetched, and no file."""
    return name[:8].lower().startswith(("http://", "https://"))


async def read(name: str, max_bytes: int) -> bytes:
    """What is in a file or behind an http(s) address.

    Raises:
        UsageError: it cannot be had, or is larger.
    """
    if is_url(name):
        return await _fetched(name, max_bytes)
    return await asyncio.to_thread(_read, name, max_bytes)


def as_input(name: str, data: bytes, num_pages: int) -> Input:
    """What was read, as it is sent.

    Raises:
        PictureRefused: it is none of the formats that are taken.
    """
    if is_pdf(data):
        return Input(name, _data_url(data, "application/pdf"), None, num_pages)
    image_format, width, height = read_header(data)
    url = _data_url(data, Image.MIME.get(image_format, "application/octet-stream"))
    return Input(name, url, (width, height), num_pages if num_pages > 1 else None)


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


def _data_url(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _count_pages(data: bytes) -> int:
    from phi_vision.media.worker_pool import WorkerPool

    limits = Limits()
    pool = WorkerPool(PictureLimits(limits.max_image_pixels), 1, limits.decode_timeout_s)
    try:
        return asyncio.run(pool.count_pages(data))
    finally:
        pool.close()


def _read(name: str, max_bytes: int) -> bytes:
    try:
        with Path(name).expanduser().open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:  # the latter: no such user's home
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {one_line(name)}: {reason}") from error
    if len(data) > max_bytes:
        raise UsageError(f"{one_line(name)} is larger than {max_bytes / 1e6:g} MB")
    return data


async def _fetched(url: str, max_bytes: int) -> bytes:
    limits = FetchLimits(max_bytes, _FETCH_TIMEOUT_S, trust_first_host=True)  # the user named it
    try:
        return await fetch(url, limits)
    except FetchRefused as refused:
        raise UsageError(f"cannot fetch {one_line(url)}: {one_line(str(refused))}") from refused
