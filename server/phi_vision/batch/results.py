"""What is kept of a server's answer about a picture or a page: the result of an item, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from phi_vision.batch.sending import Reply
from phi_vision.batch.work import ItemError
from phi_vision.client import ocr
from phi_vision.client.exchange import field, not_understood
from phi_vision.client.ocr import NotRead
from phi_vision.documents import confidence
from phi_vision.documents.answers import Answer, status_of
from phi_vision.documents.readings import reading_of

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
    try:
        page = ocr.page_in(pages[0])
    except NotRead as error:
        raise ItemError(str(error), cause="not read") from error
    return {"model": field(reply.body, "model", str), **asdict(page)}


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
    if status not in ocr.READ:
        raise ItemError("the model gives no text", cause="not read")
    words = confidence.words(text, tokens)
    scores = confidence.of_words(words)
    return {
        "text": text,
        "status": status,
        "model": field(reply.body, "model", str),
        "confidence": None if scores is None else scores.average,
        "words": [[word.text, word.confidence, word.start_index] for word in words] if tokens else None,
        "usage": ocr.usage_in(reply.body),
        "rotation": None,
        "tiles": None,
        "attempts": None,
    }


def _log_probabilities(choice: Any) -> list[tuple[str, float]]:
    logprobs = field(choice, "logprobs", dict, _NULL) or {}
    return [
        (field(token, "token", str), min(0.0, field(token, "logprob", float, int)))
        for token in field(logprobs, "content", list, _NULL) or ()
    ]
