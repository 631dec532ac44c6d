"""What models say around the text of a page, and how it is told from the page."""

from __future__ import annotations


def strip_commentary(text: str) -> str:
    """The text of the page, without what the model said around it."""
    start, stop = page_span(text)
    return text[start:stop]


def page_span(text: str) -> tuple[int, int]:
    """Where the text of the page is in an answer: `text[start:stop]`."""
    return len(text) - len(text.lstrip()), max(len(text.rstrip()), len(text) - len(text.lstrip()))
