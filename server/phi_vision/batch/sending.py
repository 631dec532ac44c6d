"""One request to one server, and what its answer means: for the item, for the server, for the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from phi_vision.batch.servers import Unavailable
from phi_vision.batch.work import ItemError
from phi_vision.client import exchange
from phi_vision.client.exchange import CONNECT_TIMEOUT_S, Endpoint
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError

MAX_ANSWER_BYTES = 32 << 20  # a full context with the log-probability of each token
MAX_ERROR_BYTES = 64 << 10  # what is read of an error
ANSWER_TIMEOUT_S = 3600.0  # the time in the server's queue included


class Broke(Exception):
    """The connection broke while the answer was awaited; the message says how."""


@dataclass(frozen=True)
class Reply:
    """A good answer.

    Args:
        body: its JSON.
        headers: by name, in lower case.
    """

    body: dict[str, Any]
    headers: Mapping[str, str]


def http_client(endpoints: Iterable[Endpoint]) -> httpx.AsyncClient:
    """For requests to these, as many at once as wanted."""
    return httpx.AsyncClient(
        trust_env=all(endpoint.named for endpoint in endpoints),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )


async def send(
    http: httpx.AsyncClient,
    endpoint: Endpoint,
    path: str,
    content: bytes | None = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Reply:
    """POST the JSON `content` to the route, or GET it where there is none.

    Raises:
        Unavailable: the server is not there, not ready, or full.
        Broke: it was, but no answer came.
        ItemError: it refused this request, or failed at it.
        UsageError: it would refuse any.
    """
    headers = endpoint.headers | ({} if content is None else {"Content-Type": "application/json"})
    method = "GET" if content is None else "POST"
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
    try:
        async with asyncio.timeout(timeout_s):
            request = http.build_request(
                method, endpoint.url(path), headers=headers, content=content, timeout=timeout
            )
            response = await http.send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise _error(endpoint, response, await _start_of(response))
                with understanding():
                    exchange.check_encoding(response)
                    return Reply(exchange.json_object(await _whole(response)), response.headers)
            finally:
                await response.aclose()
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError, OverflowError) as error:
        raise endpoint.no_address() from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unavailable(f"does not answer ({one_line(str(error)) or 'it takes no connection'})") from error
    except TimeoutError as error:
        raise Broke(f"no answer came within {timeout_s:.0f} s") from error
    except httpx.HTTPError as error:
        raise Broke(f"the connection broke while the answer was awaited ({type(error).__name__})") from error


@contextmanager
def understanding() -> Iterator[None]:
    """For reading an answer: one that is not understood is the server's failure at the item."""
    try:
        yield
    except ItemError:
        raise
    except PhiVisionError as error:
        raise ItemError(str(error), cause="server", is_final=False) from error


def _error(endpoint: Endpoint, response: httpx.Response, body: bytes) -> Exception:
    status, message = response.status_code, exchange.error_message(response, body)
    if status == 429:
        return Unavailable(f"is full: {message}", exchange.retry_after_s(response.headers), is_full=True)
    if status in (502, 503, 504):
        return Unavailable(f"is not ready: {message}", exchange.retry_after_s(response.headers))
    if status == 408:
        return Broke(f"the server gave the request up: {message}")
    if status == 401 or response.has_redirect_location:
        return endpoint.refusal(response, message)
    said = exchange.error_object(body)
    if 400 <= status < 500:
        return ItemError(f"the server refused: {message}", cause="refused", status=status, body=said)
    return ItemError(
        f"the server failed: {message}", cause="server", status=status, body=said, is_final=False
    )


async def _whole(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            exchange.not_understood("it is too large")
    return bytes(body)


async def _start_of(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ERROR_BYTES:
            break
    return bytes(body)
