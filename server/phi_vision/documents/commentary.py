"""What models say around the text of a page, told from the page by its form.

No rule can be certain: a page may itself begin with "The text in the image:". So a phrase is not enough. It
is taken as the model's only where the form says so too, in one of three ways:

- All of the answer is one code fence, perhaps after an opening.
- An opening ("Here is the text:") ends in a colon, and all that follows is quoted.
- An opening that names the picture ("The text in the image is as follows:") ends its line with a colon, and
  text follows.

Pages seldom speak of the image that they are in. In doubt the sentence stays: a reader skips a sentence too
many, but misses a line that was taken away. The answer as it came is in `PageResult.raw_text`.

An answer that only says that there is no text stands for none.
"""

from __future__ import annotations

import re

_PICTURE = r"\b(?:image|picture|page|photo(?:graph)?|document|scan|screenshot)\b"
_TEXT = r"\b(?:text|content|contents|transcription|transcript|words)\b"
_BEGINS = r"(?:sure[,!.]? |certainly[,!.]? |of course[,!.]? )?(?:here (?:is|are)|here's|this is|the|all)\b"
_MOST_CHARS = 120  # of an opening
_SPEAKS_OF_TEXT = re.compile(rf"{_BEGINS}.*(?:{_TEXT}|\b(?:says|reads)\b)", re.IGNORECASE)
_NAMES_PICTURE = re.compile(_PICTURE, re.IGNORECASE)
_FENCE = re.compile(r"(`{3,})[\w+-]*[ \t]*\n(?P<page>.*?)\n?[ \t]*\1", re.DOTALL)
_QUOTES = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("«", "»"))
_NO_TEXT = re.compile(
    rf"(?:there (?:is|was) |(?:the|this) {_PICTURE} (?:contains|has) )?"
    rf"no (?:visible |readable |legible )?text(?: (?:in|on) (?:the|this) {_PICTURE})?\.?",
    re.IGNORECASE,
)


def strip_commentary(text: str) -> str:
    """The text of the page, without what the model said around it and without spaces at its ends."""
    start, stop = page_span(text)
    return text[start:stop]


def page_span(text: str) -> tuple[int, int]:
    """The page in an answer: `text[start:stop]`, which is empty where it says that there is none."""
    start, stop = _trimmed(text, 0, len(text))
    if _NO_TEXT.fullmatch(text, start, stop):
        return start, start
    opening_end = _opening_end(text, start, stop)
    begin, _ = _trimmed(text, opening_end, stop)
    if (fence := _FENCE.fullmatch(text, begin, stop)) and fence[1] not in fence["page"]:
        return _trimmed(text, fence.start("page"), fence.end("page"))
    if opening_end == start:
        return start, stop
    if (quoted := _quoted(text, begin, stop)) is not None:
        return _trimmed(text, *quoted)
    ends_line = "\n" in text[opening_end:begin]
    if begin < stop and ends_line and _NAMES_PICTURE.search(text, start, opening_end):
        return begin, stop
    return start, stop


def _opening_end(text: str, start: int, stop: int) -> int:
    """Behind the colon of an opening; `start` where there is none."""
    line_end = text.find("\n", start, stop)
    colon = text.find(":", start, min(start + _MOST_CHARS, stop if line_end < 0 else line_end))
    if colon < 0 or not _SPEAKS_OF_TEXT.match(text, start, colon):
        return start
    return colon + 1


def _quoted(text: str, start: int, stop: int) -> tuple[int, int] | None:
    """What is inside the quotes that all of it is in."""
    for left, right in _QUOTES:
        if stop - start >= 2 and text[start] == left and text[stop - 1] == right:
            inside = text[start + 1 : stop - 1]
            return None if left in inside or right in inside else (start + 1, stop - 1)
    return None


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    inner = text[start:stop].strip()
    left = start + len(text[start:stop]) - len(text[start:stop].lstrip())
    return left, left + len(inner)
