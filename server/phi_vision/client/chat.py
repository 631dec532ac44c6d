"""Ask a server that may be anybody's. What it sends is bounded and checked before it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from phi_vision.client import exchange
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
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError

MAX_BODY_BYTES = 1 << 20  # of an answer that is no stream, and of one line of a stream
MAX_STREAM_BYTES = 64 << 20  # a full context, a token in each event
_SILENCE_TIMEOUT_S = 600.0
_ANSWER_TIMEOUT_S = 7200.0


@dataclass(frozen=True)
class Retry:
    """What to do where a server is busy (429) or not ready (503) and says when to come back.

    Args:
        max_wait_s: waits of one request together; 0 for none.
        on_wait: called with the server's message and the seconds until the next attempt.
        sleep: waits.
    """

    max_wait_s: float = 300.0
    on_wait: Callable[[str, float], None] = lambda message, wait_s: None
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Answer:
    """What came back, with what the server says it used."""

    text: str
    model: str
    finish_reason: str
    usage: dict[str, Any] | None
    num_crops: list[int | None]  # one a picture; None where the server does not say
    image_tokens: list[int | None]


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
    with _exchange(
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
    return Answer("".join(pieces), answered_by, finish_reason, usage, num_crops, image_tokens)


def _get(endpoint: Endpoint, path: str, timeout_s: float) -> dict[str, Any]:
    with _exchange(endpoint, "GET", path, timeout_s=timeout_s) as response:
        return json_object(_read(response))


@contextmanager
def _exchange(
    endpoint: Endpoint,
    method: str,
    path: str,
    body: Any = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    retry: Retry | None = None,
) -> Iterator[httpx.Response]:
    """One request, sent again as `retry` says; the response is good and not read yet."""
    url, headers = endpoint.url(path), endpoint.headers
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
    left_s = retry.max_wait_s if retry is not None else 0.0
    try:
        with httpx.Client(trust_env=endpoint.named, timeout=timeout) as client:
            while True:
                with client.stream(method, url, headers=headers, json=body) as response:
                    is_busy = response.status_code in (429, 503)
                    wait_s = exchange.retry_after_s(response) if is_busy else None
                    if retry is None or wait_s is None or wait_s > left_s:
                        _check(endpoint, response)
                        yield response
                        return
                    message = _error_message(response)
                left_s -= wait_s
                retry.on_wait(message, wait_s)
                retry.sleep(wait_s)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError, OverflowError) as error:
        raise endpoint.no_address() from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"no server answers at {one_line(endpoint.base_url)}") from error
    except httpx.HTTPError as error:
        raise PhiVisionError(f"the exchange with the server failed: {type(error).__name__}") from error


def _check(endpoint: Endpoint, response: httpx.Response) -> None:
    exchange.check_encoding(response)
    if response.status_code != 200:
        raise endpoint.refusal(response, _error_message(response))


def _error_message(response: httpx.Response) -> str:
    try:
        return exchange.error_message(response, _read(response))
    except PhiVisionError:
        return f"HTTP status {response.status_code}"


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            not_understood("it is too large")
    return bytes(body)


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
    give_up_at = time.monotonic() + _ANSWER_TIMEOUT_S
    for chunk in response.iter_raw():
        total += len(chunk)
        if total > MAX_STREAM_BYTES or time.monotonic() > give_up_at:
            not_understood("it does not end")
        first, *more = chunk.split(b"\n")
        line += first
        for piece in more:
            yield bytes(line).removesuffix(b"\r")
            line = bytearray(piece)
        if len(line) > MAX_BODY_BYTES:
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
