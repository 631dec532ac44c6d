"""A server that answers `predict` with whatever a test wants, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

END = "data: [DONE]\n\n"


def sse(*events: Any) -> str:
    return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n" for e in events)


def piece(content: Any, finish_reason: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return {"model": "x", "choices": [choice], **more}


def answer(content: str) -> str:
    return sse(piece(content), piece("", "stop")) + END


class FakeServer:
    """Serves `models`, and `tasks` if it has any; answers a chat with `reply`, byte for byte.

    It has `/v1/ocr` if it has `read_pages`: what that answers, in order. While there are `refusals`, each a
    status and headers, it answers with the next of these. Keeps what it was sent.
    """

    def __init__(self) -> None:
        self.models: list[Any] = [{"id": "mine"}, {"id": "mine:caption"}, {"id": "mine:ocr"}]
        self.tasks: list[Any] | None = None
        self.read_pages: list[Any] | None = None
        self.refusals: list[tuple[str, dict[str, str]]] = []
        self.status = "200 OK"
        self.headers: dict[str, str] = {"Content-Type": "text/event-stream"}
        self.reply: Iterable[bytes] | bytes | str = answer("hello")
        self.keys: list[str | None] = []
        self.asked: list[dict[str, Any]] = []
        self.num_not_found = 0  # requests to a route that it does not have
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.keys.append(self.headers["Authorization"])
                listed = fake.tasks if self.path == "/v1/tasks" else fake.models
                if self.path == "/v1/tasks" and fake.tasks is None:
                    self.send(b"HTTP/1.1 404 Not Found\r\n\r\n", b"")
                    return
                body = json.dumps({"object": "list", "data": listed}).encode()
                self.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", body)

            def do_POST(self) -> None:
                fake.keys.append(self.headers["Authorization"])
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/ocr" and fake.read_pages is None:
                    fake.num_not_found += 1
                    self.send(b"HTTP/1.1 404 Not Found\r\n\r\n", b'{"detail": "Not Found"}')
                    return
                fake.asked.append(asked)
                refused = bool(fake.refusals)
                status, headers = fake.refusals.pop(0) if refused else (fake.status, fake.headers)
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                reply = '{"error": {"message": "busy"}}' if refused else fake.next_reply(self.path)
                self.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1"), reply)

            def send(self, head: bytes, body: Iterable[bytes] | bytes | str) -> None:
                parts = (
                    [body.encode()] if isinstance(body, str) else [body] if isinstance(body, bytes) else body
                )
                self.close_connection = True
                try:
                    self.wfile.write(head)
                    for part in parts:
                        self.wfile.write(part)
                except ConnectionError:
                    pass  # the client has seen enough

            def log_message(self, *args: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def next_reply(self, path: str) -> Iterable[bytes] | bytes | str:
        """What the next request is answered with."""
        if path == "/v1/ocr" and self.read_pages:
            return json.dumps(self.read_pages.pop(0))
        return self.reply

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
