"""Ask a server that may be anybody's. What it sends is bounded and checked before it is used."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx

from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError

MAX_BODY_BYTES = 1 << 20  # of an answer that is no stream, and of one line of a stream
MAX_STREAM_BYTES = 64 << 20  # a full context, a token in each event
_CONNECT_TIMEOUT_S = 10.0
_SILENCE_TIMEOUT_S = 600.0
_ANSWER_TIMEOUT_S = 7200.0
_NUMBER = re.compile(r"[0-9]{1,7}")


class ApiKeyRequired(UsageError):
    """The server asks for a key, but the user has not named it, so it gets none."""


class Unreachable(UsageError):
    """No server is there."""


@dataclass(frozen=True)
class Endpoint:
    """A server to ask.

    Args:
        base_url: with its `/v1`.
        key: sent as `Authorization`; give it only to whom the user has named.
        named: by the user; only then do proxies of the environment count.
    """

    base_url: str
    key: str | None = None
    named: bool = False


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


def served_models(endpoint: Endpoint, timeout_s: float = _CONNECT_TIMEOUT_S) -> list[str]:
    """The names that the server answers to.

    Raises:
        UsageError: no server is there, or it wants a key.
        PhiVisionError: its answer is not understood.
    """
    with _exchange(endpoint, "GET", "/models", timeout_s=timeout_s) as response:
        data = _json(_read(response))
    models = _field(data, "data", list)
    return [_field(model, "id", str) for model in models]


def served_tasks(endpoint: Endpoint, timeout_s: float = _CONNECT_TIMEOUT_S) -> dict[str, str]:
    """A model name for each task of the server, whatever its operator calls the model.

    A server that has no `GET /v1/tasks` is asked for its models: those named `MODEL:TASK` count.

    Raises:
        UsageError: no server is there, or it wants a key.
        PhiVisionError: its answer is not understood.
    """
    try:
        with _exchange(endpoint, "GET", "/tasks", timeout_s=timeout_s) as response:
            tasks = _field(_json(_read(response)), "data", list)
        return {_field(task, "id", str): str(_field(task, "models", list)[0]) for task in tasks}
    except (ApiKeyRequired, Unreachable):
        raise
    except (PhiVisionError, IndexError):
        names = served_models(endpoint, timeout_s)
    return {name.rpartition(":")[2]: name for name in reversed(names) if ":" in name}  # the first one counts


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
            _not_understood("it is not a stream")
        for event in _events(response):
            chunk = _json(event)
            if chunk.get("error"):
                raise PhiVisionError(f"the server broke off: {_message_of(chunk)}")
            answered_by = _field(chunk, "model", str)
            usage = _field(chunk, "usage", dict, type(None)) or usage
            for choice in _field(chunk, "choices", list):
                finish_reason = _field(choice, "finish_reason", str, type(None)) or finish_reason
                piece = _field(_field(choice, "delta", dict), "content", str, type(None)) or ""
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)
    if finish_reason is None:
        raise PhiVisionError("the server broke off before the answer's end")
    return Answer("".join(pieces), answered_by, finish_reason, usage, num_crops, image_tokens)


@contextmanager
def _exchange(
    endpoint: Endpoint,
    method: str,
    path: str,
    body: Any = None,
    timeout_s: float = _CONNECT_TIMEOUT_S,
    retry: Retry | None = None,
) -> Iterator[httpx.Response]:
    """One request, sent again as `retry` says; the response is good and not read yet."""
    url = endpoint.base_url.rstrip("/") + path
    headers = {"Accept-Encoding": "identity", "User-Agent": "phi-vision"}
    if endpoint.key:
        if not (endpoint.key.isascii() and endpoint.key.isprintable()):
            raise UsageError("the API key has characters that cannot be sent in a header")
        headers["Authorization"] = f"Bearer {endpoint.key}"
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
    left_s = retry.max_wait_s if retry is not None else 0.0
    try:
        with httpx.Client(trust_env=endpoint.named, timeout=timeout) as client:
            while True:
                with client.stream(method, url, headers=headers, json=body) as response:
                    wait_s = _retry_after_s(response)
                    if retry is None or wait_s is None or wait_s > left_s:
                        _check(endpoint, response)
                        yield response
                        return
                    message = _error_message(response)
                left_s -= wait_s
                retry.on_wait(message, wait_s)
                retry.sleep(wait_s)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError, OverflowError) as error:
        raise UsageError(f"{one_line(endpoint.base_url)} is not an http or https address") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"no server answers at {one_line(endpoint.base_url)}") from error
    except httpx.HTTPError as error:
        raise PhiVisionError(f"the exchange with the server failed: {type(error).__name__}") from error


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds until a busy server takes the request, at least 1; None where it names none."""
    header = response.headers.get("retry-after", "")
    if response.status_code not in (429, 503):
        return None
    if _NUMBER.fullmatch(header):
        return max(1.0, float(header))
    try:
        at = parsedate_to_datetime(header)
        return max(1.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _check(endpoint: Endpoint, response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        _not_understood("it is compressed, which was not asked for")
    status = response.status_code
    if status == 200:
        return
    if response.has_redirect_location:
        target = one_line(response.headers["location"])
        raise UsageError(f"the server at {one_line(endpoint.base_url)} redirects to {target}; name that one")
    if status == 401 and endpoint.key is None and not endpoint.named:
        raise ApiKeyRequired(
            f"the server at {endpoint.base_url} asks for a key; name it with --base-url, "
            "then $OPENAI_API_KEY is sent to it"
        )
    message = _error_message(response)
    if 400 <= status < 500:
        raise UsageError(f"the server refused: {message}")
    raise PhiVisionError(f"the server failed: {message}")


def _error_message(response: httpx.Response) -> str:
    """What the body of a response that is not 200 says, on one line."""
    try:
        return _message_of(_json(_read(response)))
    except PhiVisionError:
        return f"HTTP status {response.status_code}"


def _message_of(body: dict[str, Any]) -> str:
    """An error's message in OpenAI's shape, or in vLLM's older ones."""
    error = body.get("error", body)
    message = error.get("message") if isinstance(error, dict) else error
    return one_line(message) if isinstance(message, str) and message.strip() else "it does not say why"


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            _not_understood("it is too large")
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
            _not_understood("it does not end")
        first, *more = chunk.split(b"\n")
        line += first
        for piece in more:
            yield bytes(line).removesuffix(b"\r")
            line = bytearray(piece)
        if len(line) > MAX_BODY_BYTES:
            _not_understood("a line of it is too long")
    yield from (bytes(line), b"")


def _json(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=lambda name: _not_understood(f"{name} is not JSON"))
    except (ValueError, RecursionError):
        _not_understood("it is not JSON")
    if not isinstance(value, dict):
        _not_understood("it is not an object")
    return value


def _field(holder: Any, name: str, *kinds: type) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kinds):
        _not_understood(f"{name!r} is missing or of a wrong type")
    return value


def _numbers(response: httpx.Response, name: str, count: int) -> list[int | None]:
    """One number a picture; none where the server is not ours and says nothing."""
    header = response.headers.get(name)
    if header is None:
        return [None] * count
    cells = header.split(",")
    if len(cells) != count or not all(_NUMBER.fullmatch(cell) for cell in cells):
        _not_understood(f"its header {name} is {one_line(header)!r}")
    return [int(cell) for cell in cells]


def _not_understood(reason: str) -> NoReturn:
    raise PhiVisionError(f"the server's answer is not understood: {reason}")
