"""The parts of a request that hold a picture or a document, on every route: what their fields say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from phi_vision.errors import RequestError
from phi_vision.model.crops import Detail
from phi_vision.tasks import page_ranges

_SOURCES = ("file_data", "file_id", "file_url")
_FILE_FIELDS = frozenset({*_SOURCES, "filename", "pages", "detail"})


@dataclass(frozen=True)
class MediaPart:
    """Where a picture or document is, and what of it is asked for.

    Args:
        param: the field to name in an error.
        url: http(s) or a data URL; empty if it is an uploaded file.
        detail: that the client set.
        file_id: of an uploaded file.
        pages: of a document, see `page_ranges`; None: all.
        is_file: whether it is a file part, which may be any document, and not a picture by its URL.
    """

    param: str
    url: str = field(default="", repr=False)
    detail: Detail | None = None
    file_id: str | None = None
    pages: str | None = None
    is_file: bool = False


def read_image_url(image_url: Any, param: str) -> MediaPart:
    """OpenAI's `image_url`: a URL, or an object with `url` and `detail`.

    Raises:
        RequestError: it is neither.
    """
    url, detail = image_url, None
    if isinstance(image_url, dict):
        url, detail = image_url.get("url"), image_url.get("detail")
    if not isinstance(url, str) or not url:
        raise RequestError("image_url needs a `url`: http(s) or a data URL", param=param)
    return MediaPart(param, url, read_detail(detail, param))


def read_file(file: Any, param: str, *, beside: frozenset[str] = frozenset()) -> MediaPart:
    """OpenAI's `file` or `input_file`, with our `pages`.

    Args:
        file: the object that has the fields.
        param: its path.
        beside: other fields that it may have.

    Raises:
        RequestError: it names no file or several, or has a field that would be ignored.
    """
    if not isinstance(file, dict):
        raise RequestError("a file is an object with `file_data` or `file_id`", param=param)
    if unknown := sorted(name for name in set(file) - _FILE_FIELDS - beside if file[name] is not None):
        raise RequestError(f"a file has no field {unknown[0]!r}", param=f"{param}.{unknown[0]}")
    given = [name for name in _SOURCES if file.get(name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise RequestError(f"a file needs one of {', '.join(_SOURCES)}, not {found}", param=param)
    (source,) = given
    for name in (source, "filename", "pages"):
        if file.get(name) is not None and not (isinstance(file[name], str) and file[name]):
            raise RequestError(f"{name} must be text", param=f"{param}.{name}")
    pages = file.get("pages")
    if pages is not None:
        page_ranges.parse(pages, f"{param}.pages")
    detail = read_detail(file.get("detail"), param)
    if source == "file_id":
        return MediaPart(param, "", detail, file[source], pages, is_file=True)
    return MediaPart(param, _url_of(file, source, param), detail, None, pages, is_file=True)


def _url_of(file: Mapping[str, str], source: str, param: str) -> str:
    text = file[source]
    if source == "file_data":  # never a URL that is fetched; some clients send the base64 alone
        return text if text[:5].lower() == "data:" else f"data:;base64,{text}"
    if text[:5].lower() == "data:":
        raise RequestError("a data URL belongs into file_data", param=f"{param}.file_url")
    return text


def read_detail(detail: Any, param: str) -> Detail | None:
    """OpenAI's `detail`.

    Raises:
        RequestError: it is another value.
    """
    if detail not in (None, "low", "high", "auto"):
        raise RequestError(f"detail is 'low', 'high' or 'auto', not {detail!r}", param=f"{param}.detail")
    return cast("Detail | None", detail)
