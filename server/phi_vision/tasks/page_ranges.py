"""Which pages of a document are asked for, as people write it: `1-3,7`, the first page being 1."""

from __future__ import annotations

import re
from collections.abc import Sequence

from phi_vision.errors import RequestError

_PART = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9})?)?")  # `7`, `1-3`, or `7-` for all that follow
_MAX_CHARS = 1000


def parse(text: str, param: str | None = None) -> list[tuple[int, int | None]]:
    """First and last page of each part; the last is None where it is open.

    Raises:
        RequestError: it is no such text.
    """
    ranges: list[tuple[int, int | None]] = []
    for part in text[: _MAX_CHARS + 1].split(","):
        match = _PART.fullmatch(part.strip())
        first = int(match[1]) if match else 0
        last = first if "-" not in part else int(match[2]) if match and match[2] else None
        if len(text) > _MAX_CHARS or first < 1 or (last is not None and last < first):
            raise RequestError("pages are given as '1-3,7'; the first page is 1", param=param)
        ranges.append((first, last))
    return ranges


def select(text: str | None, num_pages: int, param: str | None = None) -> Sequence[range]:
    """The pages of a document, counted from 0, in the order asked for; None stands for all.

    Raises:
        RequestError: the text is wrong, or the document has no such page.
    """
    selected = []
    for first, last in [(1, None)] if text is None else parse(text, param):
        if max(first, last or 0) > num_pages:
            missing = first if first > num_pages else num_pages + 1
            raise RequestError(
                f"there is no page {missing}: the document has {_pages(num_pages)}", param=param
            )
        selected.append(range(first - 1, last or num_pages))
    return selected


def _pages(number: int) -> str:
    return "1 page" if number == 1 else f"{number} pages"
