"""The real server under overload and faults. Each of its two engines ends with its last test."""

from __future__ import annotations

import base64
import http.server
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from pictures import data_url, encoded, image_part, reference_picture, user
from serving import Server, running_server

pytestmark = pytest.mark.slow

KEY = "a-key-that-no-log-may-hold"
CAP = 4
PHOTO = reference_picture(64, 48, 0)
FETCH_TIMEOUT_S = 3


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A small queue, a key from a file, loopback allowed for pictures, and all that vLLM can log."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"{KEY}\n")
    with running_server(
        folder / "log.txt",
        *("--model", "demo", "--max-model-len", "16384", "--max-num-queued-reqs", str(CAP)),
        *("--dtype", "float32"),  # equal answers in batches of different shapes
        *("--allow-private-media", "127.0.0.0/8", "--media-timeout-s", str(FETCH_TIMEOUT_S)),
        *("--api-key-file", str(folder / "keys"), "--shutdown-timeout", "60"),
        *("--enable-log-requests", "--enable-log-outputs", "--log-level", "DEBUG"),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def picture_host() -> Iterator[str]:
    """An HTTP server with one picture and one path that never answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/stall":
                time.sleep(30)
                return
            body = encoded(PHOTO)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")  # what headers say does not matter
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.daemon_threads = True
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_address[1]}"
    host.shutdown()


def long_stream(client: openai.OpenAI, tokens: int) -> Any:
    return client.chat.completions.create(
        model="phi-3.5-vision",
        messages=[user(image_part(PHOTO, "low"), "go on")],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )


def tokens_of(stream: Any) -> int:
    """Read a stream to its end; a chunk can hold several tokens, so the usage at the end counts."""
    (usage,) = [chunk.usage for chunk in stream if chunk.usage is not None]
    return usage.completion_tokens


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def eventually(condition: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


def caption(client: openai.OpenAI, part: dict[str, Any]) -> Any:
    return client.chat.completions.create(model="phi-3.5-vision:caption", messages=[user(part)], max_tokens=8)


def test_a_picture_from_an_allowed_private_host(guarded: Server, picture_host: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"{picture_host}/x", "detail": "low"}}
    by_url = caption(guarded.client(KEY), part)
    by_data = caption(guarded.client(KEY), image_part(PHOTO, "low"))
    assert by_url.choices[0].message.content == by_data.choices[0].message.content


def test_no_key_and_no_picture_in_the_log(guarded: Server) -> None:
    picture = encoded(reference_picture(200, 150, seed=9))
    raw = base64.b64encode(picture).decode()
    url = data_url(picture)
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [user("a text to find", image_part(picture))], "max_tokens": 2},
        "/tokenize": {"messages": [user(image_part(picture))]},
        "/v1/responses": {
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}
            ],
            "max_output_tokens": 2,
        },
        "/v1/messages": {
            "model": "phi-3.5-vision",
            "max_tokens": 2,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": raw},
                        }
                    ],
                }
            ],
        },
    }
    for path, body in bodies.items():
        answer = httpx.post(
            guarded.url + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
        )
        assert answer.status_code == 200, (path, answer.text[:500])
        broken = httpx.post(
            guarded.url + path,
            content=repr(body).encode(),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
            timeout=120,
        )
        assert 400 <= broken.status_code < 500
    wrong_key = httpx.post(
        guarded.url + "/v1/chat/completions", json={}, headers={"Authorization": "Bearer wrong-key-1234"}
    )
    assert wrong_key.status_code == 401
    log = guarded.log
    assert "a text to find" in log  # full request logging is on: the search below means something
    assert KEY not in log and "wrong-key-1234" not in log
    assert not [raw[i : i + 100] for i in range(0, len(raw) - 100, 50) if raw[i : i + 100] in log]


def test_nothing_is_done_without_the_key(guarded: Server) -> None:
    """Every route that takes a request, vLLM's too: `/invocations` and `/tokenize` are open in vLLM."""
    paths = httpx.get(f"{guarded.url}/openapi.json", timeout=30).json()["paths"]
    working = [path for path, methods in paths.items() if set(methods) - {"get"}]
    assert {"/v1/chat/completions", "/tokenize", "/invocations"} <= set(working)
    for path in working:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            answer = httpx.post(guarded.url + path.format(response_id="x"), json={}, headers=headers)
            assert answer.status_code == 401, path
    for path in ("/v1/models", "/v1/tasks"):
        assert httpx.get(guarded.url + path).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        guarded.client("wrong").models.list()
    assert guarded.client(KEY).models.list().data


def test_overload_is_429_at_once_and_the_accepted_are_served(guarded: Server) -> None:
    client = guarded.client(KEY)
    accepted = [long_stream(client, 4000) for _ in range(CAP)]

    def refused(_: int) -> openai.RateLimitError:
        with pytest.raises(openai.RateLimitError) as caught:
            caption(client, {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/never-fetched"}})
        return caught.value

    with ThreadPoolExecutor(8) as threads:
        errors = list(threads.map(refused, range(24)))
        # All were refused while the accepted ones still ran.
        assert httpx.get(f"{guarded.url}/readyz").status_code == 503
        streamed = list(threads.map(tokens_of, accepted))
    for error in errors:
        assert int(error.response.headers["Retry-After"]) > 0
        assert error.response.json()["error"]["type"] == "rate_limit_error"
    assert streamed == [4000] * CAP
    patient = client.with_options(max_retries=10)  # the SDK heeds Retry-After
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: caption(patient, image_part(PHOTO, "low")), range(24)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_a_client_that_goes_frees_the_engine(guarded: Server) -> None:
    stream = long_stream(guarded.client(KEY), 12000)
    next(iter(stream))
    eventually(lambda: metric(guarded, "vllm:num_requests_running") == 1, 10)
    stream.close()
    eventually(lambda: metric(guarded, "vllm:num_requests_running") == 0, 10)
    eventually(lambda: metric(guarded, "vllm:kv_cache_usage_perc") == 0, 10)


def test_an_image_host_that_stalls_holds_up_only_its_own_request(guarded: Server, picture_host: str) -> None:
    client = guarded.client(KEY)
    stalled = {"type": "image_url", "image_url": {"url": f"{picture_host}/stall"}}
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(caption, client, stalled)
        for _ in range(3):
            assert caption(client, image_part(PHOTO, "low")).choices
        assert not waiting.done()
        error = waiting.exception(FETCH_TIMEOUT_S + 10)
    assert isinstance(error, openai.BadRequestError) and error.param == "messages[0].content[0].image_url"
    assert "longer than 3 s" in str(error)


def test_sigterm_finishes_what_runs_and_leaves_nothing(guarded: Server) -> None:
    """The last test of this server."""
    client = guarded.client(KEY)
    parent = psutil.Process(guarded.process.pid)
    family = [parent, *parent.children(recursive=True)]
    shared = {opened for process in family for opened in shared_memory(process)}
    stream = iter(long_stream(client, 1500))
    next(stream)
    guarded.process.send_signal(signal.SIGTERM)
    eventually(lambda: httpx.get(f"{guarded.url}/readyz").status_code == 503, 5)
    with pytest.raises(openai.InternalServerError, match="stopping"):
        caption(client, image_part(PHOTO, "low"))
    assert tokens_of(stream) == 1500
    assert guarded.process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections may linger
        probe.bind(("127.0.0.1", guarded.port))
    assert shared and not [name for name in shared if Path(name).exists()]


def shared_memory(process: psutil.Process) -> set[str]:
    """Names under /dev/shm that a process has mapped: shared memory and semaphores."""
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in maps if "/dev/shm/" in line and "(deleted)" not in line}


def test_an_engine_that_is_killed_ends_every_request_and_the_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    log_path = tmp_path_factory.mktemp("killed") / "log.txt"
    with running_server(log_path, "--model", "demo", "--max-model-len", "16384") as server:
        client = server.client()
        children = psutil.Process(server.process.pid).children()
        (engine,) = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
        streams = [iter(long_stream(client, 12000)) for _ in range(3)]
        for stream in streams:
            next(stream)

        def fails(wait: Any) -> float:
            with pytest.raises(openai.APIError):
                wait()
            return time.monotonic()

        with ThreadPoolExecutor(4) as threads:
            whole = threads.submit(
                fails,
                lambda: client.chat.completions.create(
                    model="phi-3.5-vision",
                    messages=[user("hello")],
                    max_tokens=12000,
                    extra_body={"ignore_eos": True},
                ),
            )
            ends = [threads.submit(fails, lambda s=stream: list(s)) for stream in streams]
            time.sleep(1)
            killed_at = time.monotonic()
            os.kill(engine.pid, signal.SIGKILL)
            assert all(end.result(15) - killed_at < 10 for end in [whole, *ends])
        assert server.process.wait(20) == 3  # a supervisor starts it again
        assert "phi-vision serve: the engine's process died" in server.log
        assert "Traceback" not in server.log.split("phi-vision serve: the engine")[1]
