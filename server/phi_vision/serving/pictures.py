"""A picture's way to its canvas, on every route: fetched, its crops decided, drawn by a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.fetch import FetchLimits, FetchRefused, networks
from phi_vision.media.sources import Sources
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import Canvas
from phi_vision.model.crops import CropLimit, CropPolicy, Detail

FILES_BUDGET_BYTES = 1 << 30  # of files that wait for a worker; more at once is overload
_BUDGET_TIMEOUT_S = 10


@dataclass
class Picture:
    """A picture of a request: where it is, how it is to be seen, and, once it is drawn, what that costs."""

    url: str = field(repr=False)  # it can hold the file itself; empty once that is read
    param: str = "image_url"  # the field to name in an error
    detail: Detail | None = None
    explicit_num_crops: int | None = None  # set by the client
    num_crops: int = 0
    num_image_tokens: int = 0


class FileBudget:
    """Bounds the bytes of all files that are in memory at once."""

    def __init__(self, budget_bytes: int = FILES_BUDGET_BYTES, timeout_s: float = _BUDGET_TIMEOUT_S) -> None:
        self._budget_bytes = budget_bytes
        self._timeout_s = timeout_s
        self._used_bytes = 0

    async def wait_for_capacity(self) -> None:
        """Wait while too many files are in memory.

        Raises:
            RequestError: 429, after some time.
        """
        deadline = time.monotonic() + self._timeout_s
        while self._used_bytes > self._budget_bytes:
            if time.monotonic() > deadline:
                raise RequestError("too many large pictures at once; try again later", status=429)
            await asyncio.sleep(0.05)

    @contextmanager
    def count(self, data: bytes) -> Iterator[None]:
        """Count a file while it is in memory."""
        self._used_bytes += len(data)
        try:
            yield
        finally:
            self._used_bytes -= len(data)


class Pictures:
    """Makes canvases of the pictures of requests.

    Args:
        sources: where files may come from.
        pool: what draws.
        policy: how many crops.
    """

    def __init__(self, sources: Sources, pool: WorkerPool, policy: CropPolicy) -> None:
        self.policy = policy
        self._sources = sources
        self._pool = pool
        self._budget = FileBudget()

    def share(self) -> DecodeShare:
        """The share of the workers that a new request has."""
        return self._pool.share()

    async def draw(self, pictures: Sequence[Any], share: DecodeShare) -> list[Canvas]:
        """The canvases of all pictures of one prompt. How many there are decides about their crops.

        Raises:
            RequestError: the first picture that cannot be had or read, by its field.
        """
        for picture in pictures:
            if not isinstance(picture, Picture):
                raise RequestError("a picture is given by its URL", param="image_url")
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
        await self._budget.wait_for_capacity()
        try:
            data = await self._sources.read(picture.url)
            picture.url = ""  # or a data URL would be in memory until the answer has ended
            with self._budget.count(data):
                canvas = await self._pool.draw(data, limit, share)
        except (FetchRefused, PictureRefused) as error:
            raise RequestError(f"the picture cannot be read: {error}", param=picture.param) from error
        picture.num_crops = canvas.num_crops
        picture.num_image_tokens = canvas.num_image_tokens
        return canvas


def build(limits: Limits, model_config: Any) -> Pictures:
    """For vLLM's `ModelConfig`, with all workers started."""
    fetch_limits = FetchLimits(
        max_bytes=limits.max_image_bytes,
        timeout_s=limits.media_timeout_s,
        allowed_networks=networks(limits.allow_private_media),
        allowed_hosts=model_config.allowed_media_domains or (),
    )
    directory = model_config.allowed_local_media_path
    picture_limits = PictureLimits(limits.max_image_pixels)
    pool = WorkerPool(picture_limits, limits.num_media_workers, limits.decode_timeout_s)
    pool.warm_up()
    policy = CropPolicy(**model_config.multimodal_config.mm_processor_kwargs)
    return Pictures(Sources(fetch_limits, Path(directory).resolve() if directory else None), pool, policy)
