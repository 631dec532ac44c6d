"""Two API processes are one server to its clients."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from phi_vision.cores import count_cores

from tests.support.pdf import pdf, text_page
from tests.support.pictures import image_part, user
from tests.support.scraped import scraped, total
from tests.support.serving import PATIENCE_S, Server, children, eventually, running_server

pytestmark = [pytest.mark.full, pytest.mark.slow]

SIGN = (Path(__file__).parents[1] / "images" / "sign.png").read_bytes()
CHAT, MODEL, QUEUE = "/v1/chat/completions", "phi-3.5-vision", 6
FOR_EVER = httpx.Limits(keepalive_expiry=None)  # a new connection may lead to the other process
FLAGS = ("--model", "demo", "--max-model-len", "16384", "--dtype", "float32")  # equal in any batch


@pytest.fixture(scope="module")
def two_apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One engine behind two API processes."""
    log_path = tmp_path_factory.mktemp("two_apis") / "log.txt"
    flags = ("--api-server-count", "2", "--max-num-queued-reqs", str(QUEUE))
    with running_server(log_path, *FLAGS, *flags) as server:
        yield server


def api_processes(server: Server) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(server.process.pid).children()
        if "APIServer" in "".join(process.cmdline())
    ]


@contextlib.contextmanager
def one_client_each(server: Server) -> Iterator[list[httpx.Client]]:
    """A client with a connection to each API process, which it keeps."""
    found: dict[int, httpx.Client] = {}
    with contextlib.ExitStack() as opened:
        while len(found) < 2:
            client = opened.enter_context(
                httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=FOR_EVER)
            )
            response = client.get("/v1/tasks")
            port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
            for process in api_processes(server):
                if any(c.raddr and c.raddr.port == port for c in process.net_connections()):
                    found[process.pid] = client
        yield list(found.values())


@pytest.fixture(scope="module")
def clients(two_apis: Server) -> Iterator[list[httpx.Client]]:
    with one_client_each(two_apis) as found:
        yield found


def look(client: httpx.Client, **more: Any) -> httpx.Response:
    body = {"model": f"{MODEL}:ocr", "messages": [user(image_part(SIGN))], "max_tokens": 24, **more}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return answer


def text_of(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def cross_the_window(client: httpx.Client, seed: int, **headers: str) -> str:
    """The factors of a sequence that grows beyond 4,096 tokens."""
    draw = random.Random(seed)
    prompt = [1, *(draw.randrange(260, 350) for _ in range(4089))]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 16, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-phi-vision-rope"]


def test_each_api_process_answers_alike(clients: list[httpx.Client]) -> None:
    seen = []
    for client in clients:
        answer = look(client)
        kept = ("x-phi-vision-task", "x-phi-vision-num-crops", "x-phi-vision-rope")
        read = client.post(
            "/v1/ocr", json={"model": MODEL, "document": {"type": "file", "file_id": "file-x"}}
        )
        choice = look(client, structured_outputs={"choice": ["YES", "NO"]})
        assert text_of(choice) in ("YES", "NO") and read.status_code == 404
        told = [client.get(path).json() for path in ("/v1/plan", "/v1/tasks")]
        states = [client.get(path).status_code for path in ("/livez", "/readyz", "/")]
        seen.append((text_of(answer), [answer.headers[name] for name in kept], told, states))
    assert seen[0] == seen[1]
    assert cross_the_window(clients[0], 1) == cross_the_window(clients[1], 2) == "short,long"


def test_the_queue_is_one(two_apis: Server, clients: list[httpx.Client]) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
    with contextlib.ExitStack() as waiting:
        for n in range(QUEUE):
            connection = waiting.enter_context(socket.create_connection(("127.0.0.1", two_apis.port)))
            connection.sendall(head)  # and no body: it has its place, in one process or the other
            eventually(lambda n=n: clients[0].get("/v1/queue").json()["requests"] == n + 1)  # type: ignore[misc]
        for client in clients:
            assert client.get("/v1/queue").json() == {"requests": QUEUE, "max_requests": QUEUE}
            assert client.get("/readyz").status_code == 503
            refused = client.post(CHAT, json={"model": MODEL, "messages": [user("hello")]})
            assert refused.status_code == 429 and "Retry-After" in refused.headers
        found = scraped(two_apis.url)
        assert total(found, "phi_vision_requests_limit") == QUEUE
        assert total(found, "phi_vision_requests_in_flight") == QUEUE
    eventually(lambda: clients[0].get("/v1/queue").json()["requests"] == 0)
    for client in clients:
        assert client.get("/readyz").status_code == 200


def test_metrics_are_those_of_both(two_apis: Server, clients: list[httpx.Client]) -> None:
    names = ("requests_total", "pictures_total", "crops_total", "image_tokens_total")
    before = scraped(two_apis.url)

    def added(name: str, **labels: str) -> float:
        found = scraped(two_apis.url)
        return total(found, f"phi_vision_{name}", **labels) - total(before, f"phi_vision_{name}", **labels)

    answers = [look(client, max_tokens=2) for client in (*clients, clients[0])]
    eventually(lambda: added("requests_total", route=CHAT, task="ocr", status="2xx") == 3)
    assert added("pictures_total") == 3 and added("stage_seconds_count", stage="engine") == 3
    for name, header in (("crops_total", "num-crops"), ("image_tokens_total", "image-tokens")):
        assert added(name) == sum(float(answer.headers[f"x-phi-vision-{header}"]) for answer in answers)
    eventually(lambda: added("requests_in_flight") == 0)
    text = clients[1].get("/metrics").text
    assert all(f"phi_vision_{name}" in text for name in names)


def test_workers_are_shared_out(two_apis: Server) -> None:
    workers = children(two_apis.process.pid, "phi_vision.media.worker", recursive=True)
    assert len(workers) == 2 * max(1, count_cores() // 2)


def test_files_are_those_of_both(clients: list[httpx.Client]) -> None:
    first, second = clients
    file = {"file": ("a.pdf", pdf(text_page("HELLO")))}
    file_id = first.post("/v1/files", files=file, data={"purpose": "ocr"}).json()["id"]
    assert second.get("/v1/files").json()["data"][0]["id"] == file_id
    document = {"type": "file", "file_id": file_id}
    for client in clients:
        assert client.post("/v1/ocr", json={"model": MODEL, "document": document}).status_code == 200
    assert second.delete(f"/v1/files/{file_id}").json()["deleted"]
    assert first.get(f"/v1/files/{file_id}").status_code == 404
