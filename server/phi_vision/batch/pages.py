"""The files of a run: read from disk or fetched, and one page of a document as a file by itself.

Documents are opened in the worker processes of `media`, under a server's limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_vision.batch.work import ItemError
from phi_vision.client import images
from phi_vision.client.images import MAX_FILE_BYTES, Input
from phi_vision.client.output import replacing
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.pages import may_have_pages
from phi_vision.media.worker_pool import WorkerPool

MAX_DOCUMENT_BYTES = 256_000_000  # only a page of it is sent; a worker holds it twice while it reads it


class Pages:
    """Reads pictures and pages.

    Args:
        fetched: folder for documents that are named by their address: they are fetched once, and read for
            each of their pages.
        limits: those of a server, for its workers' processes and time.
    """

    def __init__(self, fetched: Path, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        workers = limits.media_workers_each()
        self._fetched = fetched
        self._pool = WorkerPool(PictureLimits(limits.max_image_pixels), workers, limits.decode_timeout_s)
        self._turns = asyncio.Semaphore(workers)  # documents in memory

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    async def count(self, source: str) -> int:
        """The pages of a document, or 1 of a picture.

        Raises:
            ItemError: it cannot be had, or opened.
        """
        with _unreadable():
            return await self._pool.count_pages(await self._document(source))

    async def count_if_opened(self, source: str) -> int:
        """The same, or 0 of a document that cannot be opened: to ask for it says why."""
        try:
            return await self.count(source)
        except ItemError:
            return 0

    async def read(self, request: Mapping[str, Any]) -> Input:
        """A picture, or one page of a document as a file by itself.

        Args:
            request: of an item, from `inputs`: `source`, a path or an http(s) address; of a document `page`,
                from 1, and `pages`, how many there are, if that is known.

        Raises:
            ItemError: it cannot be had, is nothing that a server takes, or has no such page.
        """
        source, page = request["source"], request.get("page")
        with _unreadable():
            if page is None:
                data = await _read(source, MAX_FILE_BYTES)
                await self._check_pages(data, "its name says that it is a picture")
                return _alone(source, data)
            async with self._turns:
                data = await self._document(source)
                if request.get("pages") is None:
                    await self._check_pages(data, "it could not be opened when the run began")
                data = await self._pool.extract_page(data, page - 1, MAX_FILE_BYTES)
            return _alone(source, data)

    async def _check_pages(self, data: bytes, reason: str) -> None:
        """Refuse several pages where one was expected: the others would be left out."""
        if may_have_pages(data) and (count := await self._pool.count_pages(data)) > 1:
            raise ItemError(f"it is a document of {count} pages, but {reason}", cause="unreadable")

    async def _document(self, source: str) -> bytes:
        if not images.is_url(source):
            return await _read(source, MAX_DOCUMENT_BYTES)
        path = self._fetched / hashlib.sha256(source.encode()).hexdigest()
        if not path.exists():
            data = await _read(source, MAX_DOCUMENT_BYTES)
            await asyncio.to_thread(_keep, path, data)
        return await _read(str(path), MAX_DOCUMENT_BYTES)


def _alone(source: str, data: bytes) -> Input:
    """A picture, or a document of one page."""
    given = images.as_input(source, data, 1)
    return given if given.num_pages is None else replace(given, page=1)


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except PictureRefused as refused:
        raise ItemError(str(refused), cause="unreadable") from refused


async def _read(source: str, max_bytes: int) -> bytes:
    is_url = images.is_url(source)
    try:
        if not is_url and await asyncio.to_thread(_is_special, source):
            raise UsageError("it is a device, a pipe or a socket, not a file")
        return await images.read(source, max_bytes)
    except UsageError as error:  # a host may be there again a moment later
        raise ItemError(str(error), cause="unreadable", is_final=not is_url) from error


def _is_special(path: str) -> bool:
    """Reading from it might not end, or not begin."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False  # reading says why
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(data)
