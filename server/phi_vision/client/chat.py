"""Ask a server that may be anybody's. What it sends is bounded and checked before it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from phi_vision.client import exchange, sending
from phi_vision.client.exchange import (
    CONNECT_TIMEOUT_S,
    NUMBER,
    ApiKeyRequired,
    Endpoint,
    Unreachable,
    field,
    json_object,
    not_understood,
)
from phi_vision.client.sending import Retry
from phi_vision.client.text import one_line
from phi_vision.documents.answers import ENDS, Status
from phi_vision.errors import PhiVisionError
from phi_vision.tasks.presets import PRESETS

MAX_LINE_BYTES = 1 << 20  # of a stream
MAX_STREAM_BYTES = 64 << 20  # a full context, a token in each event
_SILENCE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """What came back, with what the server says it used.

    Args:
        text: of the answer.
        model: that answered.
        finish_reason: of a chat.
        status: of the text; None where a chat ended in a way that only its server knows.
        usage: tokens.
        num_crops: one a picture; None where the server does not say.
        image_tokens: likewise.
        reading: what else is said of a page that was read; None of a chat.
    """

    text: str
    model: str
    finish_reason: str | None
    status: Status | None
    usage: dict[str, Any] | None
    num_crops: list[int | None]
    image_tokens: list[int | None]
    reading: Mapping[str, Any] | None = None


def served_models(endpoint: Endpoint, timeout_s: float = CONNECT_TIMEOUT_S) -> list[str]:
    """The names that the server answers to.

    Raises:
        UsageError: no server is there, or it wants a key.
        PhiVisionError: its answer is not understood.
    """
    return exchange.model_names(_get(endpoint, "/models", timeout_s))


def served_tasks(endpoint: Endpoint, timeout_s: float = CONNECT_TIMEOUT_S) -> dict[str, str]:
    """A model name for each task of the server, whatever its operator calls the model.

    A server that has no `GET /v1/tasks` is asked for its models: those named `MODEL:TASK` count.

    Raises:
        UsageError: no server is there, or it wants a key.
        PhiVisionError: its answer is not understood.
    """
    try:
        return exchange.tasks(_get(endpoint, "/tasks", timeout_s))
    except (ApiKeyRequired, Unreachable):
        raise
    except PhiVisionError:
        return exchange.tasks_in(served_models(endpoint, timeout_s))


def has_our_tasks(endpoint: Endpoint, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Whether a server of ours answers there.

    Raises:
        ApiKeyRequired: one asks for a key.
    """
    try:
        return not PRESETS.keys().isdisjoint(served_tasks(endpoint, timeout_s))
    except ApiKeyRequired:
        raise
    except PhiVisionError:
        return False


def ask(
    endpoint: Endpoint,
    model: str,
    content: Sequence[Mapping[str, Any]],
    pictures: int,
    on_text: Callable[[str], None] | None = None,
    retry: Retry | None = None,
) -> Answer:
    """Send one user message and read the stream.

    Args:
        endpoint: whom to ask.
        model: as it is served there.
        content: the message's parts.
        pictures: how many of them are pictures.
        on_text: called with each piece of the text as it comes.
        retry: how long to wait for a busy server; None: see `Retry`.

    Raises:
        UsageError: the server refused.
        PhiVisionError: the server failed, or its answer is not understood.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pieces: list[str] = []
    answered_by, finish_reason, usage = "", None, None
    with sending.sent(
        endpoint, "POST", "/chat/completions", body, _SILENCE_TIMEOUT_S, retry or Retry()
    ) as response:
        num_crops = _numbers(response, "x-phi-vision-num-crops", pictures)
        image_tokens = _numbers(response, "x-phi-vision-image-tokens", pictures)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            not_understood("it is not a stream")
        for event in _events(response):
            chunk = json_object(event)
            if chunk.get("error"):
                raise PhiVisionError(f"the server broke off: {exchange.message_of(chunk)}")
            answered_by = field(chunk, "model", str)
            usage = field(chunk, "usage", dict, type(None)) or usage
            for choice in field(chunk, "choices", list):
                finish_reason = field(choice, "finish_reason", str, type(None)) or finish_reason
                piece = field(field(choice, "delta", dict), "content", str, type(None)) or ""
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)
    if finish_reason is None:
        raise PhiVisionError("the server broke off before the answer's end")
    status = ENDS.get(finish_reason)
    return Answer("".join(pieces), answered_by, finish_reason, status, usage, num_crops, image_tokens)


def _get(endpoint: Endpoint, path: str, timeout_s: float) -> dict[str, Any]:
    with sending.sent(endpoint, "GET", path, timeout_s=timeout_s) as response:
        return sending.whole_json(response)


def _events(response: httpx.Response) -> Iterator[bytes]:
    """The data of each server-sent event, up to `[DONE]`."""
    data: list[bytes] = []
    for line in _lines(response):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            event = b"\n".join(data)
            if event == b"[DONE]":
                return
            yield event
            data = []


def _lines(response: httpx.Response) -> Iterator[bytes]:
    line, total = bytearray(), 0
    give_up_at = time.monotonic() + sending.ANSWER_TIMEOUT_S
    for chunk in response.iter_raw():
        total += len(chunk)
        if total > MAX_STREAM_BYTES or time.monotonic() > give_up_at:
            not_understood("it does not end")
        first, *more = chunk.split(b"\n")
        line += first
        for piece in more:
            yield bytes(line).removesuffix(b"\r")
            line = bytearray(piece)
        if len(line) > MAX_LINE_BYTES:
            not_understood("a line of it is too long")
    yield from (bytes(line), b"")


def _numbers(response: httpx.Response, name: str, count: int) -> list[int | None]:
    """One number a picture; none where the server is not ours and says nothing."""
    header = response.headers.get(name)
    if header is None:
        return [None] * count
    cells = header.split(",")
    if len(cells) != count or not all(NUMBER.fullmatch(cell) for cell in cells):
        not_understood(f"its header {name} is {one_line(header)!r}")
    return [int(cell) for cell in cells]
