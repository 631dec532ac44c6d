"""Have a server read a page: `POST /v1/ocr`, which tries again what it has not read well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from phi_vision.client import sending
from phi_vision.client.chat import Answer
from phi_vision.client.exchange import Endpoint, field, not_understood
from phi_vision.client.images import Input
from phi_vision.client.sending import Retry
from phi_vision.client.text import one_line
from phi_vision.documents.answers import Status
from phi_vision.errors import PhiVisionError

READ: tuple[Status, ...] = ("complete", "truncated", "repetition", "blank")
"""The statuses of a text: all but `failed`."""

_NULL = type(None)


class NotRead(PhiVisionError):
    """The server has no text of a page."""


@dataclass(frozen=True)
class Page:
    """What a server says of a page.

    Args:
        text: of the page.
        status: of the text.
        confidence: average over its tokens, or its words where these were asked for.
        words: each with its confidence and where it begins in the text.
        usage: tokens of all attempts.
        rotation: degrees clockwise that it was turned by.
        tiles: parts that it was read in.
        attempts: as the server lists them.
    """

    text: str
    status: Status
    confidence: float | None
    words: list[list[Any]] | None
    usage: dict[str, int] | None
    rotation: int | None
    tiles: int | None
    attempts: list[Any] | None


def read_page(endpoint: Endpoint, model: str, given: Input, retry: Retry | None = None) -> Answer:
    """Have a picture, or one page of a document, read.

    Args:
        endpoint: whom to ask.
        model: as it is served there.
        given: what to read.
        retry: how long to wait for a busy server; None: see `Retry`.

    Raises:
        NoSuchRoute: the server does not read pages.
        UsageError: the server refused.
        PhiVisionError: the server failed, or its answer is not understood.
    """
    body = {"model": model, **given.document, "confidence_scores_granularity": "page"}
    with sending.sent(endpoint, "POST", "/ocr", body, sending.ANSWER_TIMEOUT_S, retry or Retry()) as response:
        answer = sending.whole_json(response)
    pages = field(answer, "pages", list)
    if len(pages) != 1:
        not_understood(f"it has {len(pages)} pages")
    page = page_in(pages[0])
    reading = {name: getattr(page, name) for name in ("confidence", "rotation", "tiles", "attempts")}
    return Answer(
        page.text, field(answer, "model", str), None, page.status, page.usage, [None], [None], reading
    )


def page_in(page: Any) -> Page:
    """One of the `pages` of an answer.

    Raises:
        NotRead: it was not read.
        PhiVisionError: it is not understood.
    """
    status = field(page, "status", str, _NULL) or "complete"  # other servers of this shape have none
    if status not in READ:
        reason = one_line(field(page, "error", str, _NULL) or "the model gives no text")
        raise NotRead(f"the page was not read: {reason}")
    scores = field(page, "confidence_scores", dict, _NULL) or {}
    words = field(scores, "word_confidence_scores", list, _NULL)
    return Page(
        text=field(page, "markdown", str),
        status=cast("Status", status),
        confidence=_share(scores, "average_page_confidence_score") if scores else None,
        words=None if words is None else [_word(word) for word in words],
        usage=usage_in(page),
        rotation=field(page, "rotation", int, _NULL),
        tiles=field(page, "tiles", int, _NULL),
        attempts=field(page, "attempts", list, _NULL),
    )


def usage_in(holder: Any) -> dict[str, int] | None:
    """Tokens, where the server counts them."""
    usage = field(holder, "usage", dict, _NULL)
    if usage is None:
        return None
    return {name: field(usage, name, int) for name in ("prompt_tokens", "completion_tokens")}


def _word(word: Any) -> list[Any]:
    return [field(word, "text", str), _share(word, "confidence"), field(word, "start_index", int)]


def _share(holder: Any, name: str) -> float:
    value = field(holder, name, float, int)
    if not 0 <= value <= 1:
        not_understood(f"{name!r} is not between 0 and 1")
    return float(value)
