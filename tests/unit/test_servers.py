"""The server that a command asks: one that is still starting is awaited, not joined by another."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from phi_vision.cli import servers
from phi_vision.client.exchange import Endpoint
from phi_vision.client.readiness import start_of
from phi_vision.config import ServeConfig

from tests.support.serving import PATIENCE_S

TASKS = {"data": [{"id": "caption", "models": ["x:caption"]}]}


@contextmanager
def starting(*answers: tuple[int, Any]) -> Iterator[tuple[int, list[str]]]:
    """A server that gives these answers at `/readyz`, one after the other, and then has our tasks."""
    left, asked = list(answers), list[str]()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, said = left.pop(0) if left and self.path == "/readyz" else (200, TASKS)
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def test_a_server_on_the_default_port_that_starts_is_awaited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(servers, "_PROBE_INTERVAL_S", 0)
    monkeypatch.setattr(servers, "_PROBE_TIMEOUT_S", PATIENCE_S)
    loading = (503, {"status": "loading"})
    with starting((503, {"status": "downloading", "percent": 4}), loading, loading) as (port, asked):
        monkeypatch.setattr(ServeConfig, "port", port)
        with servers.find_servers([], "cpu") as found:
            assert [endpoint.base_url for endpoint in found.endpoints] == [f"http://127.0.0.1:{port}/v1"]
            assert found.own is None
        assert asked == ["/readyz"] * 4 + ["/v1/tasks"]
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" at ")[0] for line in said] == [
        "phi-vision: waiting for the server",
        "phi-vision: using the server",
    ]


def test_a_named_server_that_starts_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_PROBE_INTERVAL_S", 0)
    monkeypatch.setattr(servers, "_PROBE_TIMEOUT_S", PATIENCE_S)
    loading = (503, {"status": "loading"})
    with starting(loading, loading) as (port, asked), starting(loading) as (other, asked_other):
        url, other_url = (f"http://127.0.0.1:{each}/v1" for each in (port, other))
        with servers.find_servers([url], "cpu") as found:
            assert [endpoint.base_url for endpoint in found.endpoints] == [url]
        assert asked == ["/readyz"] * 3
        with servers.find_servers([url, other_url], "cpu"):
            assert len(asked) == 3 and not asked_other


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (503, {"status": "downloading", "percent": 43}, "downloading 43 %"),
        (503, {"status": "downloading", "percent": "\x1b[2J"}, "downloading"),
        (503, {"status": "loading"}, "loading"),
        (200, {"status": "loading"}, None),
        (503, {"status": "4 requests are at work or waiting; try again later"}, None),
        (503, {"status": ["loading"]}, None),
        (503, b"loading", None),
        (404, {"error": "no such route"}, None),
        (503, b"[" * 100_000, None),
    ],
)
def test_what_counts_as_a_start(status: int, said: Any, expected: str | None) -> None:
    with starting((status, said)) as (port, _):
        assert start_of(Endpoint(f"http://127.0.0.1:{port}/v1"), 60) == expected
    assert start_of(Endpoint(f"http://127.0.0.1:{port}/v1"), 60) is None
