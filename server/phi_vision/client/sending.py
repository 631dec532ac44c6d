"""One request of a command to a server, sent again while that is busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from phi_vision.client import exchange
from phi_vision.client.exchange import CONNECT_TIMEOUT_S, Endpoint, Unreachable, json_object, not_understood
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError

MAX_BODY_BYTES = 1 << 20  # of an answer that is no stream
ANSWER_TIMEOUT_S = 7200.0  # for the whole of an answer


class NoSuchRoute(UsageError):
    """The server does not have the route that was asked."""


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


@contextmanager
def sent(
    endpoint: Endpoint,
    method: str,
    path: str,
    body: Any = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    retry: Retry | None = None,
) -> Iterator[httpx.Response]:
    """A request, sent again as `retry` says; the response is good and not read yet.

    Args:
        endpoint: whom to ask.
        method: of HTTP.
        path: it follows the `/v1`.
        body: JSON.
        timeout_s: for each piece of the response.
        retry: None: it is sent once.

    Raises:
        UsageError: no server is there, or it refused; `NoSuchRoute` where that is why.
        PhiVisionError: the server failed.
    """
    url, headers = endpoint.url(path), endpoint.headers
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
    left_s = retry.max_wait_s if retry is not None else 0.0
    try:
        with httpx.Client(trust_env=endpoint.named, timeout=timeout) as client:
            while True:
                with client.stream(method, url, headers=headers, json=body) as response:
                    is_busy = response.status_code in (429, 503)
                    wait_s = exchange.retry_after_s(response.headers) if is_busy else None
                    if retry is None or wait_s is None or wait_s > left_s:
                        exchange.check_encoding(response)
                        if response.status_code != 200:
                            raise _refusal(endpoint, response)
                        yield response
                        return
                    message = exchange.error_message(response, _start_of(response))
                left_s -= wait_s
                retry.on_wait(message, wait_s)
                retry.sleep(wait_s)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError, OverflowError) as error:
        raise endpoint.no_address() from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"no server answers at {one_line(endpoint.base_url)}") from error
    except httpx.HTTPError as error:
        raise PhiVisionError(f"the exchange with the server failed: {type(error).__name__}") from error


def whole_json(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that a response is.

    Raises:
        PhiVisionError: it is none, or too large.
    """
    body = _start_of(response)
    if len(body) > MAX_BODY_BYTES:
        not_understood("it is too large")
    return json_object(body)


def _refusal(endpoint: Endpoint, response: httpx.Response) -> PhiVisionError:
    body = _start_of(response)
    error = endpoint.refusal(response, exchange.error_message(response, body))
    lacks_route = exchange.lacks_route(response.status_code, exchange.error_object(body))
    return NoSuchRoute(str(error)) if lacks_route else error


def _start_of(response: httpx.Response) -> bytes:
    """The body, or somewhat more of it than may be."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body)
