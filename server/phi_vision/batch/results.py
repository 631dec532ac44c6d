"""What is kept of a server's answer about a picture or a page: the result of an item, as JSON."""

from __future__ import annotations

from typing import Any

from phi_vision.batch.sending import Reply
from phi_vision.batch.work import ItemError
from phi_vision.client.exchange import field, not_understood
from phi_vision.client.text import one_line
from phi_vision.documents import confidence
from phi_vision.documents.answers import Answer, status_of
from phi_vision.documents.readings import reading_of

_STATUSES = ("complete", "truncated", "repetition", "blank")
_NULL = type(None)


def of_page(reply: Reply) -> dict[str, Any]:
    """From `POST /v1/ocr` with one page, whose words it was asked for.

    Raises:
        ItemError: the page was not read.
        PhiVisionError: the answer is not understood.
    """
    pages = field(reply.body, "pages", list)
    if len(pages) != 1:
        raise ItemError(f"it has {len(pages)} pages; name one", cause="unreadable")
    page = pages[0]
    status = field(page, "status", str, _NULL) or "complete"  # other servers of this shape have none
    if status not in _STATUSES:
        reason = one_line(field(page, "error", str, _NULL) or "the model gives no text")
        raise ItemError(f"the page was not read: {reason}", cause="not read")
    scores = field(page, "confidence_scores", dict, _NULL) or {}
    words = field(scores, "word_confidence_scores", list, _NULL)
    return {
        "text": field(page, "markdown", str),
        "status": status,
        "model": field(reply.body, "model", str),
        "confidence": _share(scores, "average_page_confidence_score") if scores else None,
        "words": None if words is None else [_word(word) for word in words],
        "usage": _usage(page),
        "rotation": field(page, "rotation", int, _NULL),
        "tiles": field(page, "tiles", int, _NULL),
        "attempts": field(page, "attempts", list, _NULL),
    }


def of_chat(reply: Reply, *, is_page: bool) -> dict[str, Any]:
    """From `POST /v1/chat/completions` with log-probabilities.

    Args:
        reply: the answer.
        is_page: whether the text of a page was asked for: then what the model says around it goes.

    Raises:
        ItemError: the model gives no text.
        PhiVisionError: the answer is not understood.
    """
    choices = field(reply.body, "choices", list)
    if len(choices) != 1:
        not_understood(f"it has {len(choices)} choices")
    answer = Answer.from_logprobs(
        field(field(choices[0], "message", dict), "content", str, _NULL) or "",
        _log_probabilities(choices[0]),
        finish_reason=field(choices[0], "finish_reason", str, _NULL),
        prompt_tokens=0,
        completion_tokens=0,
    )
    text, tokens, status = answer.text, answer.tokens, status_of(answer)
    if is_page:
        reading = reading_of(answer)
        text, tokens, status = reading.text, reading.tokens, reading.status
    if status not in _STATUSES:
        raise ItemError("the model gives no text", cause="not read")
    words = confidence.words(text, tokens)
    scores = confidence.of_words(words)
    return {
        "text": text,
        "status": status,
        "model": field(reply.body, "model", str),
        "confidence": None if scores is None else scores.average,
        "words": [[word.text, word.confidence, word.start_index] for word in words] if tokens else None,
        "usage": _usage(reply.body),
        "rotation": None,
        "tiles": None,
        "attempts": None,
    }


def _word(word: Any) -> list[Any]:
    return [field(word, "text", str), _share(word, "confidence"), field(word, "start_index", int)]


def _share(holder: Any, name: str) -> float:
    value = field(holder, name, float, int)
    if not 0 <= value <= 1:
        not_understood(f"{name!r} is not between 0 and 1")
    return float(value)


def _usage(holder: Any) -> dict[str, int] | None:
    """Tokens, where the server counts them."""
    usage = field(holder, "usage", dict, _NULL)
    if usage is None:
        return None
    return {name: field(usage, name, int) for name in ("prompt_tokens", "completion_tokens")}


def _log_probabilities(choice: Any) -> list[tuple[str, float]]:
    logprobs = field(choice, "logprobs", dict, _NULL) or {}
    return [
        (field(token, "token", str), min(0.0, field(token, "logprob", float, int)))
        for token in field(logprobs, "content", list, _NULL) or ()
    ]
