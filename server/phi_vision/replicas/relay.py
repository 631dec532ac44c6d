"""A request to one of the servers and its answer back, both as they are.

A request goes to the next server where one refuses it (429, 503) or cannot be reached, and once more where a
server ended before it answered: what the model is asked changes nothing. Bodies are held until then.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import aiohttp
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from phi_vision.errors import RequestError
from phi_vision.replicas.members import Member, Members

RETRY_AFTER_S = 2
MAX_HELD_BYTES = 1 << 30  # bodies of all requests together

_CONNECT_S = 5.0
_MAX_HEADER_BYTES = 65_536
_FORM_BYTES = 100_000  # of an upload, beside the file itself
_UPLOADS, _BATCHES = "/v1/files", "/v1/batches"
_REFUSALS = (429, 503)  # before any work
# Of one connection, not of the request (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# Said anew for each server, or answered here: the body has been read by then.
_OURS = frozenset((b"content-length", b"expect", b"x-forwarded-for"))

RawHeaders = list[tuple[bytes, bytes]]


class Relay:
    """The ASGI application behind all paths that the balancer does not answer itself.

    Args:
        members: the servers.
        http: a `session`.
        max_body_bytes: of a request.
        max_file_bytes: of an uploaded file.
        timeout_s: for a client to send a body.
    """

    def __init__(
        self,
        members: Members,
        http: aiohttp.ClientSession,
        *,
        max_body_bytes: int,
        max_file_bytes: int,
        timeout_s: float,
    ) -> None:
        self.stopping = False
        self._members = members
        self._http = http
        self._max_bytes = max(max_body_bytes, max_file_bytes + _FORM_BYTES)  # the server knows for which path
        self._timeout_s = timeout_s
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, unless its client goes first."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "no websockets here"})
            return
        if self.stopping:
            raise RequestError("the server is stopping", status=503, retry_after_s=RETRY_AFTER_S)
        with self._hold() as held:
            body = await self._read(scope, receive, held)
            if body is None:
                return
            asking = asyncio.create_task(self._ask_in_turn(scope, body, send))
            leaving = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    asking.result()
            except BrokenAnswer:
                pass  # without its end the client's connection is closed
            finally:
                for task in (asking, leaving):
                    task.cancel()
                await asyncio.wait((asking, leaving))

    @contextmanager
    def _hold(self) -> Iterator[_Held]:
        held = _Held()
        try:
            yield held
        finally:
            self.held_bytes -= held.nbytes

    async def _read(self, scope: Scope, receive: Receive, held: _Held) -> bytes | None:
        """The whole body; None when the client has gone."""
        headers = Headers(scope=scope)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return b""
        too_large = RequestError(f"the request is larger than {self._max_bytes / 1e6:g} MB", status=413)
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise too_large
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                while (message := await receive())["type"] != "http.disconnect":
                    chunk = message.get("body", b"")
                    held.nbytes += len(chunk)
                    self.held_bytes += len(chunk)
                    if held.nbytes > self._max_bytes:
                        raise too_large
                    if self.held_bytes > MAX_HELD_BYTES:
                        raise RequestError(
                            "too many large requests at once; try again later",
                            status=429,
                            retry_after_s=RETRY_AFTER_S,
                        )
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise RequestError(f"the body took longer than {self._timeout_s:g} s", status=408) from None
        return None

    async def _ask_in_turn(self, scope: Scope, body: bytes, send: Send) -> None:
        """Relay the first answer that is no refusal, else the last refusal.

        Raises:
            RequestError: there is none.
        """
        refusal: tuple[Message, bytes] | None = None
        broken = 0
        for member in self._members.in_order():
            try:
                with member.at_work():
                    async with self._request(member, scope, body) as answer:
                        start = _start(answer)
                        if answer.status not in _REFUSALS:
                            await _relay(start, answer, send)
                            return
                        refusal = start, await answer.read()
                        if answer.status == 503:
                            member.state = "refused a request"  # until it is asked for its state again
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                member.state = "refused a connection"
            except (aiohttp.ClientError, ConnectionError):
                member.state = "closed a connection"
                broken += 1
                if broken > 1 or not _may_be_done_twice(scope):
                    raise RequestError(
                        "the server that had this request ended before it answered; send it again", status=502
                    ) from None
        if refusal is not None:
            start, content = refusal
            await send(start)
            await send({"type": "http.response.body", "body": content})
            return
        raise RequestError(
            f"no server is ready: {self._members.state}; try again later",
            status=503,
            retry_after_s=RETRY_AFTER_S,
        )

    def _request(self, member: Member, scope: Scope, body: bytes) -> aiohttp.client._RequestContextManager:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("latin-1")
        return self._http.request(
            scope["method"],
            URL(f"{member.url}{target}", encoded=True),
            headers=_for_server(scope),
            data=io.BytesIO(body) if body else None,  # sent in pieces
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            allow_redirects=False,
        )


def session() -> aiohttp.ClientSession:
    """Asks servers with what clients send, and nothing else.

    Each request has a connection of its own: one that waits may be closed just as it is used again, and then
    nobody knows whether the request has arrived.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        auto_decompress=False,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )


class _Held:
    """Bytes of one request's body."""

    nbytes = 0


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _may_be_done_twice(scope: Scope) -> bool:
    """Whether a request makes nothing: an upload and a new batch do."""
    path = scope["path"]
    makes = path in (_UPLOADS, _BATCHES) or path.startswith((f"{_UPLOADS}/", f"{_BATCHES}/"))
    return scope["method"] in ("GET", "HEAD") or not makes


def _for_server(scope: Scope) -> list[tuple[str, str]]:
    """The client's headers, and who it is."""
    headers: RawHeaders = scope["headers"]
    kept = [(name, value) for name, value in headers if name not in _OURS]
    before = [value for name, value in headers if name == b"x-forwarded-for"]
    client = scope["client"][0].encode() if scope.get("client") else b"unknown"
    kept = [*_end_to_end(kept), (b"x-forwarded-for", b", ".join([*before, client]))]
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept]


def _start(answer: aiohttp.ClientResponse) -> Message:
    """How the answer begins, with the server's headers."""
    raw = [(name.lower(), value) for name, value in answer.raw_headers]
    return {
        "type": "http.response.start",
        "status": answer.status,
        "headers": list(_end_to_end(raw)),
    }


def _end_to_end(headers: RawHeaders) -> Iterable[tuple[bytes, bytes]]:
    named = {
        word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")
    }
    return ((name, value) for name, value in headers if name not in _HOP_BY_HOP | named)


async def _relay(start: Message, answer: aiohttp.ClientResponse, send: Send) -> None:
    """Send an answer on as it comes. One that breaks off breaks off there too."""
    await send(start)
    try:
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, ConnectionError):
        raise BrokenAnswer from None
    await send({"type": "http.response.body", "body": b""})


class BrokenAnswer(Exception):
    """The server ended within its answer; the client's connection is to end too."""
