"""From the parts of a request to its pictures: documents are opened, and each page becomes a picture."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pybase64

from phi_vision.errors import RequestError
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.pages import may_have_pages
from phi_vision.media.view import PageView
from phi_vision.serving.pictures import Picture, Pictures, PromptLimits
from phi_vision.tasks import page_ranges
from phi_vision.tasks.media_parts import MediaPart

_HEAD_CHARS = 2048  # of base64: what tells a document from a picture


@dataclass(frozen=True)
class Documents:
    """Opens the documents of requests.

    Args:
        pictures: what reads files.
        limits: of one prompt.
    """

    pictures: Pictures
    limits: PromptLimits

    async def open(
        self, parts: Sequence[MediaPart], owner: str, *, fetch_first: bool = True
    ) -> list[list[Picture]]:
        """The pictures that each part stands for: itself, or the pages of a document.

        Args:
            parts: of one prompt, in order.
            owner: whose uploaded files may be read.
            fetch_first: whether a picture by URL is fetched to see whether it is a document. Otherwise it
                is a picture, and is refused where it is drawn if it has several pages.

        Raises:
            RequestError: too many, or the first part that cannot be had or read, by its field.
        """
        if len(parts) > self.limits.pictures + self.limits.pages:  # before anything is read
            raise self._too_many_pictures(parts, len(parts))
        may_be_document = [part.is_file or _may_be_document(part.url, fetch_first) for part in parts]
        if not any(may_be_document):
            opened: list[Any] = [[_picture(part)] for part in parts]
        else:
            share = self.pictures.share()
            await self.pictures.wait_for_capacity()  # once: who holds a file does not wait for the next
            opening = (
                self._open(part, owner, share) if may_be else _alone(part)
                for part, may_be in zip(parts, may_be_document, strict=True)
            )
            opened = await asyncio.gather(*opening, return_exceptions=True)
            for each in opened:
                if isinstance(each, BaseException):
                    raise each
        self._check_number(parts, opened)
        return opened

    async def _open(self, part: MediaPart, owner: str, share: DecodeShare) -> list[Picture]:
        if part.file_id is not None:
            file = await self.pictures.read_upload(part.file_id, owner, f"{part.param}.file_id")
        else:
            file = await self.pictures.read(part.url, part.param)
        if not part.is_file and not may_have_pages(file.data):
            return [_picture(part, file=file, share=share)]
        num_pages = await self.pictures.count_pages(file, share, part.param)
        selected = page_ranges.select(part.pages, num_pages, f"{part.param}.pages")
        if sum(map(len, selected)) > self.limits.pages:
            raise self._too_many_pages(part, selected, self.limits.pages)
        pages = itertools.chain.from_iterable(selected)
        return [_picture(part, file=file, share=share, view=PageView(page)) for page in pages]

    def _check_number(self, parts: Sequence[MediaPart], opened: Sequence[Sequence[Picture]]) -> None:
        num_pictures = num_pages = 0
        for part, pictures in zip(parts, opened, strict=True):
            pages = [picture.view.page for picture in pictures if picture.view is not None]
            if num_pages + len(pages) > self.limits.pages:
                raise self._too_many_pages(part, [pages], self.limits.pages - num_pages)
            num_pages += len(pages)
            num_pictures += len(pictures) - len(pages)
        if num_pictures > self.limits.pictures or num_pictures + num_pages > self.limits.together:
            raise self._too_many_pictures(parts, num_pictures + num_pages)

    def _too_many_pictures(self, parts: Sequence[MediaPart], number: int) -> RequestError:
        most = min(self.limits.pictures, self.limits.together)
        return RequestError(
            f"{number} pictures; at most {most} in one request", param=parts[0].param.partition("[")[0]
        )

    def _too_many_pages(self, part: MediaPart, selected: Sequence[Sequence[int]], room: int) -> RequestError:
        page = next(itertools.islice(itertools.chain.from_iterable(selected), room, None)) + 1
        return RequestError(
            f"page {page} is one too many: the documents of a request may have {self.limits.pages} pages; "
            "choose some with `pages` or send several requests",
            param=part.param,
        )


def _picture(part: MediaPart, **more: Any) -> Picture:
    return Picture("" if "file" in more else part.url, part.param, part.detail, **more)


async def _alone(part: MediaPart) -> list[Picture]:
    return [_picture(part)]


def _may_be_document(url: str, fetch_first: bool) -> bool:
    """Whether a URL in the place of a picture may be a document's, by the beginning of a data URL."""
    if url[:5].lower() != "data:":
        return fetch_first
    start = url.find(",", 0, _HEAD_CHARS) + 1
    try:
        return may_have_pages(pybase64.b64decode(url[start : start + _HEAD_CHARS]))
    except ValueError:
        return False  # which is said where it is read
