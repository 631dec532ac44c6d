"""Strangers at a running server that may open only 256 files and logs all it can."""

from __future__ import annotations

import base64
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.support.pictures import data_url, encoded, reference_picture
from tests.support.stub_server import StubServer

OPEN_FILES = 256
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
PICTURE = encoded(reference_picture(160, 120, seed=4))


@contextmanager
def open_files(number: int) -> Iterator[None]:
    """The limit of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    flags = ("--max-model-len", "16384", "--log-level", "debug", "--enable-log-requests")
    limited = ("-c", LIMITED, str(OPEN_FILES))
    folder = tmp_path_factory.mktemp("small")
    with StubServer(folder, *flags, wrapper=limited) as stub:
        stub.wait_until_ready()
        yield stub


def test_idle_connections_of_a_stranger_do_not_end_the_service(small: StubServer) -> None:
    with open_files(4096), ExitStack() as opened:
        for i in range(2 * OPEN_FILES):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", small.port), timeout=60))
            if i % 2:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-")
        for path in ("/livez", "/readyz", "/v1/models"):
            assert httpx.get(small.url + path, timeout=120).status_code == 200
        chat = {"messages": [{"role": "user", "content": "still there?"}]}
        assert httpx.post(f"{small.base_url}/chat/completions", json=chat, timeout=120).status_code == 200
    assert re.search(r"at most \d+ connections, not 1000", small.log)


def test_nothing_of_what_clients_send_harms_the_log(small: StubServer) -> None:
    escape = "\x1b]0;owned\x07"
    with httpx.Client(base_url=small.url, timeout=120) as http:
        chat = {"messages": [{"role": "user", "content": "hello " + escape}], "user": escape}
        head = {b"X-Request-Id": b"mine\x9b31m\x90"}  # C1 controls: the parser refuses the others
        assert http.post("/v1/chat/completions", json=chat, headers=head).status_code == 200
        picture = {"type": "input_image", "image_url": data_url(PICTURE)}
        asked = {"input": [{"role": "user", "content": [picture]}], "max_output_tokens": 4}
        assert http.post("/v1/responses", json=asked).status_code == 200
        assert http.get("/v1/models?api_key=sk-secret").status_code == 200
        assert http.get("/v1/none/%1b%5b2J?sk-secret").status_code == 404
        assert http.post("/v1/chat/completions", json=chat | {"model": "x" + escape}).status_code == 404
        assert http.get("/last").status_code == 404  # its line stands behind all others
    while '"GET /last' not in small.log:
        time.sleep(0.05)
    assert "mine\\x9b31m" in small.log  # it was logged
    assert "/v1/models?api_key=***" in small.log and "sk-secret" not in small.log
    assert not [line for line in small.log.splitlines() if not line.isprintable()]
    text = base64.b64encode(PICTURE).decode()
    assert not [start for start in range(0, len(text) - 80, 40) if text[start : start + 80] in small.log]
