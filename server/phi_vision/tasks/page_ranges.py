"""Which pages of a document are asked for, as people write it: `1-3,7`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from phi_vision.errors import RequestError

_PART = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9})?)?")  # `7`, `1-3`, or `7-` for all that follow
_MAX_CHARS = 1000


def parse(text: str, param: str | None = None, *, base: int = 1) -> list[tuple[int, int | None]]:
    """First and last page of each part; the last is None where it is open.

    Args:
        text: such as `1-3,7`, or `7-` for all that follow.
        param: the field to name in an error.
        base: the number of the first page.

    Raises:
        RequestError: it is no such text.
    """
    ranges: list[tuple[int, int | None]] = []
    for part in text[: _MAX_CHARS + 1].split(","):
        match = _PART.fullmatch(part.strip())
        first = int(match[1]) if match else -1
        last = first if "-" not in part else int(match[2]) if match and match[2] else None
        if len(text) > _MAX_CHARS or first < base or (last is not None and last < first):
            example = f"{base}-{base + 2},{base + 6}"
            raise RequestError(f"pages are given as '{example}'; the first page is {base}", param=param)
        ranges.append((first, last))
    return ranges


def select(
    pages: str | Sequence[int] | None, num_pages: int, param: str | None = None, *, base: int = 1
) -> Sequence[range]:
    """The pages of a document, counted from 0, in the order asked for.

    Args:
        pages: as text, see `parse`; by their numbers; None for all.
        num_pages: of the document.
        param: the field to name in an error.
        base: the number of the first page.

    Raises:
        RequestError: the text is wrong, or the document has no such page.
    """
    end = base + num_pages
    selected = []
    for first, last in _ranges(pages, param, base):
        if first < base or max(first, last or base) >= end:
            missing = end if base <= first < end else first
            raise RequestError(
                f"there is no page {missing}: the document has {_described(num_pages, base)}", param=param
            )
        selected.append(range(first - base, num_pages if last is None else last - base + 1))
    return selected


def _ranges(pages: str | Sequence[int] | None, param: str | None, base: int) -> list[tuple[int, int | None]]:
    if pages is None:
        return [(base, None)]
    return parse(pages, param, base=base) if isinstance(pages, str) else [(page, page) for page in pages]


def _described(num_pages: int, base: int) -> str:
    """How many pages there are; where the first is not page 1, their numbers too."""
    if num_pages == 1:
        return "1 page" if base == 1 else f"1 page, page {base}"
    numbers = "" if base == 1 else f", {base} to {base + num_pages - 1}"
    return f"{num_pages} pages{numbers}"
