"""The web page at `/`: its files, and the headers that each goes out with.

Standard library only: the page is also served while the engine is not there yet. There is no build step; what
stands in the folder is what browsers get.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

HEADERS: Mapping[str, str] = {
    # Scripts, styles and requests of this server alone, and pictures that the user chose (`blob:`). Nothing
    # inline, so no text of an answer can become a script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and answered with 304
}

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


@cache
def files() -> Mapping[str, PageFile]:
    """All files by the path that they are asked for with: `/`, and `/page/app.js` and the like."""
    found = dict(_files_below(resources.files(__name__), "/page/"))
    return {"/": found.pop("/page/index.html"), **found}


def _files_below(folder: Traversable, path: str) -> Iterator[tuple[str, PageFile]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        suffix = entry.name[entry.name.rfind(".") :]
        if entry.is_dir():
            yield from _files_below(entry, f"{path}{entry.name}/")
        elif suffix in _MEDIA_TYPES:  # not the Python files
            yield path + entry.name, PageFile(entry.read_bytes(), _MEDIA_TYPES[suffix])
