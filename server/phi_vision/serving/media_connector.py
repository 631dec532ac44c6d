"""vLLM's media connector behind the guards of `media`, for every route.

Pictures only: the model takes nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import threading
import time
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.image import ImageMediaIO

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.fetch import FetchLimits, FetchRefused, fetch, networks
from phi_vision.media.worker_pool import DecoderPool
from phi_vision.plugin_names import MEDIA_CONNECTOR

# Decoded pictures wait for the model's processor, 4 bytes a pixel. More at once is overload.
DECODED_BUDGET_BYTES = 2 << 30
_BUDGET_TIMEOUT_S = 10

_DECODED_AS = {"image_mode": "RGB", "rgba_background_color": (255, 255, 255)}  # part of vLLM's cache key


class _Decoder:
    """The decoders of this process, and how many bytes of their pictures are still alive."""

    def __init__(self, limits: Limits) -> None:
        pictures = PictureLimits(limits.max_image_pixels)
        self.pool = DecoderPool(pictures, limits.num_media_workers, limits.decode_timeout_s)
        self._alive_bytes = 0
        self._lock = threading.Lock()  # the last reference may be dropped by any thread

    async def wait_for_capacity(self) -> None:
        """Wait until pictures decoded earlier have been used up."""
        deadline = time.monotonic() + _BUDGET_TIMEOUT_S
        while self._alive_bytes > DECODED_BUDGET_BYTES:
            if time.monotonic() > deadline:
                raise RequestError("too many large pictures at once; try again later", status=429)
            await asyncio.sleep(0.05)

    def count(self, picture: Image.Image) -> None:
        """Count a picture until nothing refers to it any more."""
        nbytes = picture.width * picture.height * 4
        self._add(nbytes)
        weakref.finalize(picture, self._add, -nbytes).atexit = False

    def _add(self, nbytes: int) -> None:
        with self._lock:
            self._alive_bytes += nbytes


_limits = Limits()  # of this process; the defaults under vLLM's offline classes


def configure(limits: Limits) -> None:
    """Set the limits of this process, before the first picture."""
    global _limits
    _limits = limits
    _decoder.cache_clear()


@functools.cache
def _decoder() -> _Decoder:
    return _Decoder(_limits)


# vLLM's routes hand a connector the URL alone; this says whose it is.
_share: ContextVar[DecodeShare | None] = ContextVar("share", default=None)


def begin_request() -> None:
    """All pictures that are loaded from here on, in this context, are of one request."""
    _share.set(_decoder().pool.share())


@MEDIA_CONNECTOR_REGISTRY.register(MEDIA_CONNECTOR)
class GuardedMediaConnector(MediaConnector):
    """Reads http(s), data and, from a directory the operator gave, file URLs.

    Raises:
        RequestError: from every method, where the URL or what lies behind it is not taken. Its
            `param` is `image_url`; our own routes name the message part instead.
    """

    def __init__(self, media_io_kwargs: Any = None, **allowed: Any) -> None:
        if media_io_kwargs:
            raise RequestError("media_io_kwargs are not supported here", param="media_io_kwargs")
        super().__init__(None, **allowed)

    async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: Any = None) -> Any:
        """The picture in vLLM's wrapper; `fetch_timeout` is vLLM's, ours is the operator's."""
        _require_picture(media_io)
        if _scheme(url) in ("http", "https"):
            data = await self._fetch(url)
        else:
            data = await asyncio.to_thread(self._read, url)
        decoder = _decoder()
        await decoder.wait_for_capacity()
        try:
            picture = await decoder.pool.decode(data, _share.get())
        except PictureRefused as error:
            raise _refused(error) from error
        decoder.count(picture)
        return MediaWithBytes(picture, data, _DECODED_AS)

    def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: Any = None) -> Any:
        """The same without an event loop, for vLLM's offline classes."""
        return asyncio.run(self.load_from_url_async(url, media_io))

    async def _fetch(self, url: str) -> bytes:
        limits = FetchLimits(
            max_bytes=_limits.max_image_bytes,
            timeout_s=_limits.media_timeout_s,
            allowed_networks=networks(_limits.allow_private_media),
            allowed_hosts=self.allowed_media_domains,
        )
        try:
            return await fetch(url, limits)
        except FetchRefused as error:
            raise _refused(error) from error

    def _read(self, url: str) -> bytes:
        scheme = _scheme(url)
        if scheme == "data":
            return _data_url(url, _limits.max_image_bytes)
        if scheme == "file" and self.allowed_local_media_path is not None:
            return _file_url(url, self.allowed_local_media_path, _limits.max_image_bytes)
        raise _refused("only http, https and data URLs are fetched")


def _scheme(url: str) -> str:
    """The scheme in lower case, without looking at the rest, which can be megabytes of base64."""
    return url[:8].partition(":")[0].lower()


def _require_picture(media_io: Any) -> None:
    if not isinstance(media_io, ImageMediaIO):
        raise RequestError("the model takes pictures only, no sound and no video", param="messages")


def _refused(reason: object) -> RequestError:
    return RequestError(f"the picture cannot be read: {reason}", param="image_url")


def _data_url(url: str, max_bytes: int) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _refused("a data URL must be `data:image/...;base64,` and the file in base64")
    if len(text) * 3 // 4 > max_bytes + 2:
        raise _refused(f"it is larger than {max_bytes / 1e6:g} MB")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _refused("the data URL is not valid base64") from error


def _file_url(url: str, directory: Path, max_bytes: int) -> bytes:
    parts = urlsplit(url)
    try:
        path = Path(unquote(parts.path)).resolve()
        if parts.netloc not in ("", "localhost") or directory not in path.parents:
            raise _refused("the file is not in the directory that is served")
        if not path.is_file() or path.stat().st_size > max_bytes:
            raise _refused(f"it is not a file of at most {max_bytes / 1e6:g} MB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _refused("the file cannot be read") from error
