"""What vllm-router carries, and why it does not stand before our servers: as server/README.md says."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from phi_vision.client.process import ServerProcess

from tests.support.upstream import Upstream, answering, running

pytestmark = pytest.mark.full

HEADERS = {"Authorization": "Bearer key", "Origin": "http://elsewhere.example"}


def behind(folder: Path, server: Upstream, use: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """What `use` returns, with a client of a router in front of one server."""
    port, metrics_port = free_ports()

    async def run() -> Any:
        async with running(server) as url:
            command = [sys.executable, "-m", "vllm_router.launch_router", "--worker-urls", url]
            command += ["--port", str(port), "--prometheus-port", str(metrics_port), "--disable-retries"]
            command += ["--policy", "round_robin", "--health-check-endpoint", "/readyz"]
            with ServerProcess(command, folder / "log.txt", port=port, ready_path="/readiness") as router:
                await asyncio.to_thread(router.wait_until_ready)
                server.asked.clear()
                async with httpx.AsyncClient(base_url=router.url, headers=HEADERS) as client:
                    return await use(client)

    return asyncio.run(run())


def free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as another:
        for each in (one, another):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], another.getsockname()[1]]


def seen(server: Upstream, path: str) -> tuple[Any, bytes]:
    """The request of that path, and its body."""
    places = [place for place, request in enumerate(server.asked) if request.path == path]
    assert len(places) == 1, [request.path for request in server.asked]
    return server.asked[places[0]], server.bodies[places[0] - len(server.asked)]


def test_a_chat_passes_with_its_head_and_its_task(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    content = [picture, {"type": "file", "file": {"file_id": "file-1"}}]
    question = {"model": "m:ocr", "task": "ocr", "messages": [{"role": "user", "content": content}]}
    server = answering(text="{}", x_phi_vision_status="complete")

    async def use(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/chat/completions", json=question)

    answer = behind(tmp_path, server, use)
    request, body = seen(server, "/v1/chat/completions")
    assert {name: request.headers[name] for name in HEADERS} == HEADERS
    arrived = json.loads(body)
    assert {name: arrived[name] for name in question} == question and len(arrived) > len(question)
    assert answer.headers["X-Phi-Vision-Status"] == "complete"


def test_other_routes_lose_key_origin_and_query_and_uploads(tmp_path: Path) -> None:
    server = answering(text="{}")

    async def use(client: httpx.AsyncClient) -> httpx.Response:
        await client.post("/v1/ocr?x=1", json={"document": "d"})
        return await client.post("/v1/files", files={"file": b"bytes"}, data={"purpose": "ocr"})

    upload = behind(tmp_path, server, use)
    request, _ = seen(server, "/v1/ocr")
    assert not set(HEADERS) & set(request.headers) and request.query_string == ""
    assert upload.status_code == 400 and "/v1/files" not in [request.path for request in server.asked]


def test_anybody_can_take_servers_away_and_add_others(tmp_path: Path) -> None:
    server = answering(text="{}")

    async def use(client: httpx.AsyncClient) -> list[Any]:
        (url,) = (await client.get("/list_workers")).json()["urls"]
        answers = [await client.post(path, params={"url": url}) for path in ("/remove_worker", "/add_worker")]
        return [answer.status_code for answer in answers]

    assert behind(tmp_path, server, use) == [200, 200]
