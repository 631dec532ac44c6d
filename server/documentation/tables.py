"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: str, rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table without its empty columns; those whose cells begin with a digit are aligned right."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = [column for column in zip(head.split(" | "), *cells, strict=True) if any(column[1:])]
    rule = ["---:" if all(cell[:1].isdigit() for cell in column[1:]) else "---" for column in columns]
    first, *rest = (f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))
    return "\n".join([first, f"|{'|'.join(rule)}|", *rest])
