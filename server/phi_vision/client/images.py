"""Files and URLs that the user names -> pictures to send."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureRefused, read_header
from phi_vision.media.fetch import FetchLimits, FetchRefused, fetch

MAX_FILE_BYTES = int(Limits.max_body_mb * 1e6) * 3 // 4  # in base64 it fills a request
_FETCH_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Input:
    """A picture as given on the command line. Sizes in pixels, upright."""

    name: str
    width: int
    height: int
    url: str  # data URL


def load(name: str) -> Input:
    """Read a picture from a file or an http(s) address; only its header is looked at.

    Raises:
        UsageError: it cannot be had, or is none of the formats that are taken.
    """
    remote = name[:8].lower().startswith(("http://", "https://"))
    data = _fetched(name) if remote else _read(name)
    try:
        image_format, width, height = read_header(data)
    except PictureRefused as refused:
        raise UsageError(f"{one_line(name)} is not a picture that can be read: {refused}") from refused
    mime = Image.MIME.get(image_format, "application/octet-stream")
    return Input(name, width, height, f"data:{mime};base64,{base64.b64encode(data).decode()}")


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
