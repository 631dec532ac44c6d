"""Answers on the server's port while the server starts: a program, as the start keeps its own process busy.

    python -m phi_vision.serving.startup_server LISTENING_FD CONTROL_FD SETTINGS

`/livez` answers 200, `/readyz` 503 with the state, `/` and `/page/` the page; everything else is a 503 that
says when to try again. The launcher tells it the state, and the server when to stop, see `startup_process`.
Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from phi_vision import page
from phi_vision.errors import RequestError
from phi_vision.serving.origin_rule import OriginRule

STOP = STOPPED = b"stop\n"  # what is asked of it, and its answer

_MAX_HEAD_BYTES = 16_384
_MAX_CONNECTIONS = 256
_RETRY_AFTER_S = 5
_CONTROL_BYTES = 10_000  # of a line from the launcher
_CALLED_WITHIN_S = 0.1  # from accepting a connection to its handler


class StartupServer:
    """The answers, and who may have them.

    Args:
        rule: which requests are refused, as the server itself will.
        client_timeout_s: for a whole exchange.
        has_page: whether the web page is there.
    """

    def __init__(self, rule: OriginRule, client_timeout_s: float, *, has_page: bool) -> None:
        self._rule = rule
        self._client_timeout_s = client_timeout_s
        self._page = page.files() if has_page else {}
        self._state: dict[str, Any] = {"status": "loading"}
        self._connections: set[asyncio.StreamWriter] = set()
        self._stopping = asyncio.Event()

    async def run(self, listening: socket.socket, control: socket.socket) -> None:
        """Answer until told to stop, then finish the answers that are under way."""
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=_MAX_HEAD_BYTES)
        told = await asyncio.start_unix_server(self._obey, sock=control, limit=_CONTROL_BYTES)
        await self._stopping.wait()
        told.close()
        await asyncio.sleep(_CALLED_WITHIN_S)
        while self._connections:  # each ends within the client's time
            await asyncio.sleep(_CALLED_WITHIN_S)

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take lines from the launcher: the state as JSON, or `STOP`."""
        with contextlib.suppress(OSError, asyncio.CancelledError):  # of the latter asyncio prints a traceback
            async for line in reader:
                if line == STOP:
                    self._server.close()  # connections that wait are left to the server
                    writer.write(STOPPED)
                    await writer.drain()
                    self._stopping.set()
                else:
                    self._state = json.loads(line)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(writer)
        try:
            async with asyncio.timeout(self._client_timeout_s):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.write_eof()
                while await reader.read(65_536):
                    pass  # a close with bytes unread would take the answer back
        except (OSError, TimeoutError, EOFError):
            writer.transport.abort()
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, headers = _parse(head)
        except asyncio.LimitOverrunError:
            return _render("", RequestError("the request's head is too large", status=431))
        except ValueError:
            return _render("", RequestError("this is not a request of HTTP/1.1"))
        if (refusal := self._rule.refusal(method, path, headers)) is not None:
            return _render(method, refusal)
        if method in ("GET", "HEAD"):
            if path == "/livez":
                return _response(method, 200, _json({"status": "ok"}))
            if path == "/readyz":
                return _response(method, 503, _json(self._state))
            if (file := self._page.get(path)) is not None:
                return _response(method, 200, file.content, file.media_type, page.HEADERS)
        return _render(method, RequestError(self._reason(), status=503, retry_after_s=_RETRY_AFTER_S))

    def _reason(self) -> str:
        percent = self._state.get("percent")
        done = "" if percent is None else f" ({percent} %)"
        return f"the server is starting: {self._state['status']}{done}; try again later"


def _parse(head: bytes) -> tuple[str, str, list[tuple[bytes, bytes]]]:
    """Method, path and headers.

    Raises:
        ValueError: it is not HTTP/1.
    """
    first, *lines = head[:-4].split(b"\r\n")
    method, target, version = first.decode("ascii").split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    pairs = [line.split(b":", 1) for line in lines]
    return method, urlsplit(target).path, [(name.strip().lower(), value.strip()) for name, value in pairs]


def _render(method: str, error: RequestError) -> bytes:
    return _response(method, error.status, _json(error.body()), headers=error.headers())


def _response(
    method: str,
    status: int,
    body: bytes,
    media_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    lines = {
        **(headers or {}),
        "Content-Type": media_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + (b"" if method == "HEAD" else body)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def main() -> None:
    """Answer on the sockets of the command line."""
    listening, control = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    settings = json.loads(sys.argv[3])
    rule = OriginRule(tuple(settings["hosts"]), tuple(settings["origins"]))
    server = StartupServer(rule, settings["client_timeout_s"], has_page=settings["has_page"])
    asyncio.run(server.run(listening, control))


if __name__ == "__main__":
    main()
