"""A picture's way to its canvas, on every route: fetched, its crops decided, drawn by a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic_core import SchemaSerializer, core_schema

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.fetch import FetchLimits, FetchRefused, networks
from phi_vision.media.sources import Sources
from phi_vision.media.view import PageView
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import Canvas
from phi_vision.model.crops import CropLimit, CropPolicy, Detail
from phi_vision.serving import metrics
from phi_vision.serving.files import FileStore
from phi_vision.serving.media_files import FileBudgets, MediaFile


@dataclass
class Picture:
    """A picture of a request: where it is, how it is to be seen, and, once it is drawn, what that costs."""

    url: str = field(default="", repr=False)  # it can hold the file itself; empty once that is read
    param: str = "image_url"  # the field to name in an error
    detail: Detail | None = None
    explicit_num_crops: int | None = None  # set by the client
    file: MediaFile | None = field(default=None, repr=False)  # in place of the URL; None once it is drawn
    view: PageView | None = None  # of a document; None: a picture, which has one page
    share: DecodeShare | None = field(default=None, repr=False)  # where workers have looked at its request
    canvas: Canvas | None = field(default=None, repr=False)  # where it is drawn already
    num_crops: int = 0
    num_image_tokens: int = 0

    # How pydantic writes it where vLLM logs a request as JSON: without what it holds.
    __pydantic_serializer__: ClassVar = SchemaSerializer(
        core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(repr))
    )


class Pictures:
    """Makes canvases of the pictures of requests.

    Args:
        sources: where files may come from.
        pool: what draws.
        policy: how many crops.
        files: those that were uploaded.
        max_pictures: in one prompt, pages of documents not counted; None: as many as vLLM takes.
    """

    def __init__(
        self,
        sources: Sources,
        pool: WorkerPool,
        policy: CropPolicy,
        files: FileStore,
        max_pictures: int | None = None,
    ) -> None:
        self.policy = policy
        self._sources = sources
        self._files = files
        self._max_pictures = max_pictures
        self._pool = pool
        self._budgets = FileBudgets()

    def share(self) -> DecodeShare:
        """The share of the workers that a new request has."""
        return self._pool.share()

    async def open(self, url: str, param: str = "image_url") -> MediaFile:
        """The file behind a URL, read once: http(s), data, or one that this server has signed.

        Raises:
            RequestError: it is not to be had.
        """
        await self.wait_for_capacity()
        return await self.read(url, param)

    async def wait_for_capacity(self) -> None:
        """Wait while too many files are in memory.

        Raises:
            RequestError: 429, after some time.
        """
        await self._budgets.current.wait_for_capacity()

    async def read(self, url: str, param: str) -> MediaFile:
        """As `open`, at once."""
        with naming(param):
            if (signed := self._files.signed(url)) is not None:
                return await self.read_upload(*signed, param)
            is_fetched = url[:4].lower() == "http"
            try:
                with metrics.timing("fetch") if is_fetched else nullcontext():
                    return MediaFile(await self._sources.read(url), self._budgets.current)
            except FetchRefused as error:
                metrics.FETCH_REFUSALS.labels(error.reason).inc()
                raise _unreadable(error, param) from error

    async def read_upload(self, file_id: str, owner: str, param: str) -> MediaFile:
        """The bytes of an uploaded file, at once.

        Raises:
            RequestError: 404: this owner has none of that id.
        """
        with naming(param):
            return MediaFile(await asyncio.to_thread(self._files.read, file_id, owner), self._budgets.current)

    async def count_pages(
        self, file: MediaFile, share: DecodeShare | None = None, param: str = "file"
    ) -> int:
        """How many pages a file has; a picture has one.

        Raises:
            RequestError: it cannot be read.
        """
        try:
            return await self._pool.count_pages(file.data, share)
        except PictureRefused as error:
            raise RequestError(f"the file cannot be read: {error}", param=param) from error

    async def canvas(
        self,
        file: MediaFile,
        view: PageView,
        limit: CropLimit,
        share: DecodeShare | None = None,
        param: str = "file",
    ) -> Canvas:
        """A page of a file as the model takes it.

        Raises:
            RequestError: it cannot be drawn.
        """
        try:
            with metrics.timing("draw"):
                return await self._pool.draw(file.data, limit, share, view=view)
        except PictureRefused as error:
            raise RequestError(f"page {view.page + 1} cannot be read: {error}", param=param) from error

    async def draw(self, pictures: Sequence[Any], share: DecodeShare) -> list[Canvas]:
        """The canvases of all pictures of one prompt. How many there are decides about their crops.

        Raises:
            RequestError: the first picture that cannot be had or read, by its field.
        """
        for picture in pictures:
            if not isinstance(picture, Picture):
                raise RequestError("a picture is given by its URL", param="image_url")
        if self._max_pictures is not None:
            alone = [picture for picture in pictures if picture.view is None]
            if len(alone) > self._max_pictures:
                raise RequestError(
                    f"{len(alone)} pictures; at most {self._max_pictures} in one request",
                    param=alone[-1].param,
                )
        share = next((picture.share for picture in pictures if picture.share is not None), share)
        drawing = (self._draw(picture, self._limit(picture, len(pictures)), share) for picture in pictures)
        canvases = await asyncio.gather(*drawing, return_exceptions=True)
        for canvas in canvases:
            if isinstance(canvas, BaseException):
                raise canvas
        return canvases  # type: ignore[return-value]  # what was raised is out

    def _limit(self, picture: Picture, num_pictures: int) -> CropLimit:
        if picture.explicit_num_crops is not None:
            return CropLimit(picture.explicit_num_crops)
        return self.policy.limit(num_pictures, picture.detail)

    async def _draw(self, picture: Picture, limit: CropLimit, share: DecodeShare) -> Canvas:
        canvas = picture.canvas
        if canvas is None:
            file, picture.file = picture.file, None
            if file is None and not picture.url:  # vLLM keeps the messages of a response that it stores
                raise RequestError(
                    "the earlier response had a document, which is not kept: send it again, without "
                    "previous_response_id",
                    param="previous_response_id",
                )
            if file is None:
                file = await self.open(picture.url, picture.param)
                picture.url = ""  # or a data URL would be in memory until the answer has ended
            canvas = await self._draw_file(file, picture, limit, share)
        picture.num_crops = canvas.num_crops
        picture.num_image_tokens = canvas.num_image_tokens
        kind: metrics.PictureKind = "picture" if picture.view is None else "page"
        metrics.PICTURES.labels("reading" if picture.canvas is not None else kind).inc()
        metrics.CROPS.inc(canvas.num_crops)
        metrics.IMAGE_TOKENS.inc(canvas.num_image_tokens)
        return canvas

    async def _draw_file(
        self, file: MediaFile, picture: Picture, limit: CropLimit, share: DecodeShare
    ) -> Canvas:
        if picture.view is not None:
            return await self.canvas(file, picture.view, limit, share, picture.param)
        if (num := await self.count_pages(file, share, picture.param)) > 1:
            raise RequestError(
                f"a document of {num} pages is no picture here; /v1/chat/completions and /v1/ocr read it",
                param=picture.param,
            )
        try:
            with metrics.timing("draw"):
                return await self._pool.draw(file.data, limit, share)
        except PictureRefused as error:
            raise _unreadable(error, picture.param) from error


@contextmanager
def naming(param: str) -> Iterator[None]:
    """Have an error that names no field name this one."""
    try:
        yield
    except RequestError as error:
        error.param = error.param or param
        raise


def _unreadable(error: Exception, param: str) -> RequestError:
    return RequestError(f"the picture cannot be read: {error}", param=param)


def build(limits: Limits, model_config: Any, files: FileStore, workers: int) -> Pictures:
    """For vLLM's `ModelConfig`, with so many workers, which are started."""
    fetch_limits = FetchLimits(
        max_bytes=limits.max_image_bytes,
        timeout_s=limits.media_timeout_s,
        allowed_networks=networks(limits.allow_private_media),
        allowed_hosts=model_config.allowed_media_domains or (),
    )
    directory = model_config.allowed_local_media_path
    sources = Sources(fetch_limits, Path(directory).resolve() if directory else None)
    picture_limits = PictureLimits(limits.max_image_pixels)
    pool = WorkerPool(picture_limits, workers, limits.decode_timeout_s, metrics.DECODER_DEATHS.inc)
    pool.warm_up()
    policy = CropPolicy(**model_config.multimodal_config.mm_processor_kwargs)
    return Pictures(sources, pool, policy, files, prompt_limits(limits, model_config).pictures)


@dataclass(frozen=True)
class PromptLimits:
    """How many pictures one prompt may have.

    Args:
        pictures: given as such.
        pages: of all documents together.
        together: what the engine takes.
    """

    pictures: int
    pages: int
    together: int


def prompt_limits(limits: Limits, model_config: Any) -> PromptLimits:
    """The operator's; where vLLM's own flag (`--limit-mm-per-prompt`) says something else, that counts."""
    together = int(model_config.multimodal_config.get_limit_per_prompt("image"))
    if together == limits.images_per_prompt:
        return PromptLimits(limits.max_images, limits.max_pages, together)
    return PromptLimits(together, min(limits.max_pages, together), together)
