"""A hub that refuses, is slow, is gone, or lies behind a proxy: a local server plays it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import close_session, constants
from phi_vision.doctor import hub

REPO = "someone/phi-like"


class FakeHub:
    """Answers each question with `status` and `headers`, once `go` is set."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.go = threading.Event()
        self.go.set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self.path)
                fake.go.wait()
                body = json.dumps({"id": REPO, "modelId": REPO, "siblings": []}).encode()
                self.send_response(fake.status)
                for name, value in {**fake.headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    close_session()  # a client keeps the proxies that it was made with
    running = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield running
    running.close()
    close_session()


def fault(limit_s: float = 600) -> hub.HubFault:
    found = hub.find_fault(REPO, limit_s)
    assert found is not None and found.remedy
    return found


def test_a_hub_that_has_it(fake: FakeHub) -> None:
    assert hub.find_fault(REPO) is None
    assert f"/api/models/{REPO}?blobs=true" in fake.asked
    assert hub.address() == fake.url


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "is gated"),
        (401, {}, "shows no repository"),
        (404, {"X-Error-Code": "RepoNotFound"}, "shows no repository"),
        (403, {}, "shows no repository"),
        (503, {}, "HTTP status 503"),
    ],
)
def test_a_hub_that_refuses(fake: FakeHub, status: int, headers: dict[str, str], said: str) -> None:
    fake.status, fake.headers = status, headers
    assert said in fault().summary


def test_a_hub_that_is_slow(fake: FakeHub) -> None:
    fake.go.clear()
    assert fault(limit_s=0.1).summary == "it does not answer in time"


def test_a_hub_that_is_slow_by_its_clients_own_limit(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.go.clear()
    monkeypatch.setattr("phi_vision.planning.hub._ANSWERS_WITHIN_S", 0.1)
    assert fault().summary == "it does not answer in time"


def test_a_hub_that_is_not_there(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert "it cannot be reached: " in fault().summary and "HF_ENDPOINT" in fault().remedy


def test_a_hub_that_nobody_asks(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fault().is_offline and not fake.asked


def test_a_name_that_is_none(fake: FakeHub) -> None:
    found = hub.find_fault("a/b/c")
    assert found and "shows no repository a/b/c" in found.summary and not fake.asked


def test_a_proxy_that_refuses(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example.org")
    monkeypatch.setenv("https_proxy", fake.url)  # it knows no CONNECT
    assert fault().summary.startswith("the proxy refuses: 501") and "HTTPS_PROXY" in fault().remedy


def test_the_proxy_is_named_without_its_password(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example.org:3128")
    assert hub.address() == f"{fake.url} through the proxy proxy.example.org:3128"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert hub.address() == fake.url
