"""The real engine, when clients go, hosts stall, and processes are killed."""

from __future__ import annotations

import base64
import http.server
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from phi_vision.serving.private_folder import PrivateFolder, mapped_shared_memory

from tests.support.other_settings import KEY, KEY_IN_FILE
from tests.support.pictures import data_url, encoded, image_part, reference_picture, user
from tests.support.serving import (
    PATIENCE_S,
    Server,
    children,
    eventually,
    starting_server,
)

pytestmark = pytest.mark.slow

PHOTO = reference_picture(64, 48, 0)


@dataclass(frozen=True)
class PictureHost:
    """An HTTP server with one picture, and one path that says nothing, and ends when it is let go."""

    url: str
    stalled: threading.Event
    let_go: threading.Event


@pytest.fixture(scope="module")
def picture_host() -> Iterator[PictureHost]:
    stalled, let_go = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/stall":
                stalled.set()
                let_go.wait()
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
    yield PictureHost(f"http://127.0.0.1:{host.server_address[1]}", stalled, let_go)
    let_go.set()
    host.shutdown()


def long_stream(client: openai.OpenAI) -> Any:
    """An answer that is not over soon."""
    return client.chat.completions.create(
        model="eyes",
        messages=[user(image_part(PHOTO, "low"), "go on")],
        max_tokens=16000,
        stream=True,
        extra_body={"ignore_eos": True},
    )


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def caption(client: openai.OpenAI, part: dict[str, Any], salt: str = "none") -> Any:
    return client.chat.completions.create(
        model="eyes:caption", messages=[user(part)], max_tokens=8, extra_body={"cache_salt": salt}
    )


def test_a_picture_from_an_allowed_private_host(other: Server, picture_host: PictureHost) -> None:
    part = {"type": "image_url", "image_url": {"url": f"{picture_host.url}/x", "detail": "low"}}
    by_url = caption(other.client(KEY), part, salt="a")  # both computed in whole, so equal
    by_data = caption(other.client(KEY_IN_FILE), image_part(PHOTO, "low"), salt="b")
    assert by_url.choices[0].message.content == by_data.choices[0].message.content


def test_no_key_and_no_picture_in_the_log(other: Server) -> None:
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
            "model": "eyes",
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
            other.url + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE_S
        )
        assert answer.status_code == 200, (path, answer.text[:500])
        broken = httpx.post(
            other.url + path,
            content=repr(body).encode(),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
            timeout=PATIENCE_S,
        )
        assert 400 <= broken.status_code < 500
    wrong_key = httpx.post(
        other.url + "/v1/chat/completions",
        json={},
        headers={"Authorization": "Bearer wrong-key-1234"},
        timeout=PATIENCE_S,
    )
    assert wrong_key.status_code == 401
    log = other.log
    assert "a text to find" in log  # full request logging is on: the search below means something
    assert not [key for key in (KEY, KEY_IN_FILE, "wrong-key-1234") if key in log]
    assert not [raw[i : i + 100] for i in range(0, len(raw) - 100, 50) if raw[i : i + 100] in log]


def test_a_client_that_goes_frees_the_engine(other: Server) -> None:
    stream = long_stream(other.client(KEY))
    next(iter(stream))
    eventually(lambda: metric(other, "vllm:num_requests_running") == 1)
    stream.close()
    eventually(lambda: metric(other, "vllm:num_requests_running") == 0)
    eventually(lambda: metric(other, "vllm:kv_cache_usage_perc") == 0)


def test_an_image_host_that_stalls_holds_up_only_its_own_request(
    other: Server, picture_host: PictureHost
) -> None:
    client = other.client(KEY)
    stalled = {"type": "image_url", "image_url": {"url": f"{picture_host.url}/stall"}}
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(caption, client, stalled)
        picture_host.stalled.wait()
        for _ in range(3):
            assert caption(client, image_part(PHOTO, "low")).choices
        assert not waiting.done()
        picture_host.let_go.set()
        error = waiting.exception()
    assert isinstance(error, openai.BadRequestError) and error.param == "messages[0].content[0].image_url"


def test_an_engine_that_is_killed_ends_every_request_and_the_server(other: Server) -> None:
    """The last test of this server, with those of `test_custom_settings` before it."""
    client = other.client(KEY)
    family = psutil.Process(other.process.pid).children(recursive=True)
    (engine,) = children(other.process.pid, "EngineCore", recursive=True)
    streams = [iter(long_stream(client)) for _ in range(3)]
    for stream in streams:
        next(stream)

    def fails(wait: Any) -> None:
        with pytest.raises(openai.APIError):
            wait()

    with ThreadPoolExecutor(4) as threads:
        whole = threads.submit(fails, lambda: list(long_stream(client)))
        eventually(lambda: metric(other, "vllm:num_requests_running") == 4)
        engine.kill()
        for end in [whole, *(threads.submit(fails, lambda s=stream: list(s)) for stream in streams)]:
            end.result()
    assert other.process.wait(PATIENCE_S) == 3  # a supervisor starts it again
    assert_gone(family, other)
    assert "phi-vision serve: the engine's process died" in other.log
    assert "Traceback" not in other.log.split("phi-vision serve: the engine")[1]


@pytest.mark.full
def test_a_start_that_is_killed_or_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the engine loads: killed, only files stay, until the next start; stopped, nothing."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, name) for name in ("killed", "stopped")]
        for folder in folders:
            folder.mkdir()
        flags = ("--model", "demo", "--max-model-len", "4096")
        with ExitStack() as stack:  # both at once: of a start's processes one works at a time
            killed, stopped = [
                stack.enter_context(
                    starting_server(tmp_path / f"{folder.name}.txt", *flags, env={"TMPDIR": str(folder)})
                )
                for folder in folders
            ]
            family = loading(killed)
            shared = {name for process in family for name in mapped_shared_memory(process.pid)}
            killed.process.kill()
            killed.process.wait()
            assert_gone(family, killed)
            assert shared and not [name for name in shared if Path("/dev/shm", name).exists()]
            family = loading(stopped)
            stopped.process.send_signal(signal.SIGTERM)
            assert stopped.process.wait(PATIENCE_S) == 0
            assert_gone(family, stopped)
        assert [len(list(folder.iterdir())) for folder in folders] == [1, 0]
        monkeypatch.setenv("VLLM_RPC_BASE_PATH", str(folders[0]))
        PrivateFolder().remove()  # what the next start does first, and what it does last
        assert list(folders[0].iterdir()) == []


def loading(server: Server) -> list[psutil.Process]:
    """All processes below a server's first, once its engine has its worker."""

    def has_worker() -> bool:
        assert server.process.poll() is None, server.log[-3000:]
        return bool(children(server.process.pid, "VLLM::Worker", recursive=True))

    eventually(has_worker)
    return psutil.Process(server.process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], server: Server) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert alive == [], server.log[-3000:]
