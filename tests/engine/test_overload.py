"""Overload, keys and the stop, at the real server's HTTP; what its stub of an engine answers is held back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.pictures import user
from tests.support.serving import PATIENCE_S, eventually
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import StubServer, running_stub

KEY = "a-key-of-the-test"
CAP = 4


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    """A small queue and a key from a file."""
    folder: Path = tmp_path_factory.mktemp("capped")
    (folder / "keys").write_text(f"{KEY}\n")
    flags = ("--max-num-queued-reqs", str(CAP), "--api-key-file", str(folder / "keys"))
    with running_stub(folder, *flags, "--shutdown-timeout", "3600") as running:
        yield running


def ask(client: openai.OpenAI) -> Any:
    answer = client.chat.completions.create(model="phi-3.5-vision", messages=[user("hello")])
    return answer.choices[0].message.content


def test_nothing_is_done_without_the_key(capped: StubServer) -> None:
    """Every route that takes a request, vLLM's too: `/invocations` and `/tokenize` are open in vLLM."""
    paths = httpx.get(f"{capped.url}/openapi.json", timeout=PATIENCE_S).json()["paths"]
    working = [path for path, methods in paths.items() if set(methods) - {"get"}]
    assert {"/v1/chat/completions", "/tokenize", "/invocations"} <= set(working)
    for path in working:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            url = capped.url + path.format(response_id="x", file_id="x", batch_id="x")
            assert httpx.post(url, json={}, headers=headers, timeout=PATIENCE_S).status_code == 401, path
    for path in ("/v1/models", "/v1/tasks"):
        assert httpx.get(capped.url + path, timeout=PATIENCE_S).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        capped.client("wrong").models.list()
    assert capped.client(KEY).models.list().data
    assert capped.requests == []


def test_overload_is_429_and_the_accepted_are_served(capped: StubServer) -> None:
    client = capped.client(KEY)
    before = len(capped.requests)
    with ThreadPoolExecutor(CAP + 1) as threads:
        with capped.hold():
            accepted = [threads.submit(ask, client) for _ in range(CAP)]
            eventually(lambda: len(capped.requests) == before + CAP)
            for _ in range(10):
                with pytest.raises(openai.RateLimitError) as caught:
                    ask(client)
                assert int(caught.value.response.headers["Retry-After"]) > 0
                assert caught.value.response.json()["error"]["type"] == "rate_limit_error"
            assert not any(request.done() for request in accepted)
            assert httpx.get(f"{capped.url}/readyz", timeout=PATIENCE_S).status_code == 503
            refused = capped.log.count(" 429 ")
            patient = threads.submit(ask, client.with_options(max_retries=1000))  # the SDK heeds Retry-After
            eventually(lambda: capped.log.count(" 429 ") > refused)
            assert len(capped.requests) == before + CAP  # nothing refused came further
        assert [request.result() for request in [*accepted, patient]] == [ANSWER] * (CAP + 1)


def test_sigterm_finishes_what_runs_and_takes_no_more(capped: StubServer) -> None:
    """The last test of this server."""
    client = capped.client(KEY)
    before = len(capped.requests)
    with ThreadPoolExecutor(1) as threads:
        with capped.hold():
            running = threads.submit(ask, client)
            eventually(lambda: len(capped.requests) == before + 1)
            capped.process.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{capped.url}/readyz", timeout=PATIENCE_S).status_code == 503)
            with pytest.raises(openai.InternalServerError, match="stopping"):
                ask(client)
            assert not running.done() and capped.process.poll() is None
        assert running.result() == ANSWER
    assert capped.process.wait(PATIENCE_S) == 0
