"""OpenAI's chat route, streaming only, around a program that has a Python API and no server.

Standard library alone: it runs in environments that have little else.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Usage:
    """What an answer took, in tokens."""

    prompt_tokens: int
    completion_tokens: int


# From a request's body to pieces of text as they are made; what it took comes last.
Answer = Callable[[Mapping[str, Any]], Iterator[str | Usage]]


def serve(model: Mapping[str, Any], answer: Answer, port: int) -> None:
    """Serve one model until the process ends; a thread for each request.

    Args:
        model: its entry in `/v1/models`, with an `id`.
        answer: called by several threads at once.
        port: of 127.0.0.1.
    """
    handler = type("Handler", (_Handler,), {"model": model, "answer": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    """One request; a response ends with its connection."""

    model: Mapping[str, Any]
    answer: Answer
    disable_nagle_algorithm = True  # each token leaves at once

    def do_GET(self) -> None:
        """`/health` and `/v1/models`."""
        if self.path == "/health":
            self._send_json(200, {})
        elif self.path == "/v1/models":
            self._send_json(200, {"object": "list", "data": [self.model]})
        else:
            self._send_error(404, f"no {self.path} here")

    def do_POST(self) -> None:
        """`/v1/chat/completions`."""
        if self.path != "/v1/chat/completions":
            self._send_error(404, f"no {self.path} here")
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not body.get("stream"):
            self._send_error(400, "stream: must be true")
            return
        pieces = type(self).answer(body)
        try:
            first = next(pieces)
        except Exception as error:
            traceback.print_exc()
            self._send_error(500, f"{type(error).__name__}: {error}")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._send_piece(first)
        for piece in pieces:
            self._send_piece(piece)
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the log is for what fails."""

    def _send_piece(self, piece: str | Usage) -> None:
        chunk: dict[str, Any] = {"id": "chat", "object": "chat.completion.chunk", "created": 0}
        chunk["model"] = self.model["id"]
        if isinstance(piece, Usage):
            total = piece.prompt_tokens + piece.completion_tokens
            chunk |= {"choices": [], "usage": asdict(piece) | {"total_tokens": total}}
        else:
            chunk["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": piece}}]
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _send_error(self, status: int, message: str) -> None:
        self._send_json(status, {"error": {"message": message, "code": status}})

    def _send_json(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
