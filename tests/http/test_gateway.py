"""Two servers behind HAProxy as `server/deploy` sets it up: what passes, and what happens when one goes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import free_port, running_gateway
from tests.support.pictures import image_part, reference_picture
from tests.support.serving import PATIENCE_S, eventually
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import StubServer

pytestmark = pytest.mark.full

ADDRESSES = ("127.0.0.2", "127.0.0.3")
KEY = "key-of-one"
HEADERS = {"Authorization": f"Bearer {KEY}"}
HEALTHY = 200


class ServerAt(StubServer):
    """A stub server at an address of the loopback network."""

    def __init__(self, folder: Path, files: Path, address: str, port: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "keys").write_text(KEY)
        flags = ("--host", address, "--port", str(port), "--files-folder", str(files))
        super().__init__(folder, *flags, "--api-key-file", str(folder / "keys"), "--max-num-queued-reqs", "4")
        self._address = address

    @property
    def url(self) -> str:
        return f"http://{self._address}:{self.port}"


@dataclass
class Site:
    """All of it."""

    url: str
    servers: list[ServerAt]

    def ask(self, content: Any = "Hello", **more: Any) -> httpx.Response:
        body = {"model": "phi-3.5-vision-demo", "messages": [{"role": "user", "content": content}], **more}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=HEADERS)

    def who_answers(self) -> set[int]:
        """Which servers get requests now."""
        before = [len(server.requests) for server in self.servers]
        for _ in range(6):
            self.ask()
        return {n for n, server in enumerate(self.servers) if len(server.requests) > before[n]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    port = free_port(ADDRESSES)
    with running_gateway(folder, ADDRESSES, port) as url, ExitStack() as stack:
        servers = [ServerAt(folder / address, folder / "files", address, port) for address in ADDRESSES]
        site = Site(url, servers)
        stack.callback(lambda: [server.stop() for server in servers])  # those that are there then
        eventually(lambda: site.who_answers() == {0, 1})
        yield site


def test_requests_are_shared_and_pass_as_they_are(site: Site) -> None:
    assert site.who_answers() == {0, 1}
    picture = image_part(reference_picture(300, 200, seed=1))
    answer = site.ask([picture], model="phi-3.5-vision-demo:ocr")
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert answer.headers["x-phi-vision-task"] == "ocr"
    assert httpx.post(f"{site.url}/v1/chat/completions", json={}).status_code == 401  # without a key
    with httpx.stream("GET", f"{site.url}/") as page:
        assert "<title>" in page.read().decode()
    chunks = site.ask(stream=True).text
    assert chunks.endswith("data: [DONE]\n\n")


def test_an_upload_passes_and_is_there_at_both(site: Site) -> None:
    content = b"%PDF-" + bytes(range(256)) * 4000  # more than HAProxy keeps in memory
    sent = {"file": ("scan.pdf", content)}
    answer = httpx.post(
        f"{site.url}/v1/files", files=sent, data={"purpose": "user_data"}, headers=HEADERS
    ).raise_for_status()
    for base in (site.url, *(server.url for server in site.servers)):
        read = httpx.get(f"{base}/v1/files/{answer.json()['id']}/content", headers=HEADERS)
        assert read.content == content


def test_metrics_are_not_for_clients(site: Site) -> None:
    assert httpx.get(f"{site.servers[0].url}/metrics").status_code == HEALTHY
    for path in ("/metrics", "/%6detrics", "/metrics/"):
        with socket.create_connection(("127.0.0.1", httpx.URL(site.url).port or 0)) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            assert connection.makefile("rb").readline().split()[1] == b"404"


def test_a_server_hears_of_a_client_that_leaves(site: Site) -> None:
    with ExitStack() as held:
        for server in site.servers:
            held.enter_context(server.hold("Leaving"))

        def aborted() -> bool:
            return any("aborted" in each for server in site.servers for each in server.requests)

        assert not aborted()
        with pytest.raises(httpx.ReadTimeout):
            body = {"messages": [{"role": "user", "content": "Leaving"}]}
            httpx.post(f"{site.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=2)
        eventually(aborted)


def test_a_full_server_gets_nothing_and_both_full_is_a_refusal(site: Site) -> None:
    async def fill() -> None:
        async with httpx.AsyncClient(headers=HEADERS, timeout=PATIENCE_S) as client:
            body = {"messages": [{"role": "user", "content": "Held"}]}
            url = f"{site.url}/v1/chat/completions"
            asked = [asyncio.create_task(client.post(url, json=body)) for _ in range(8)]
            async with asyncio.timeout(PATIENCE_S):
                while (refused := site.ask()).status_code != 503:
                    await asyncio.sleep(0.1)
            assert refused.headers["retry-after"] == "2"
            assert refused.json()["error"]["type"] == "service_unavailable_error"
            for server in site.servers:
                (server.folder / "hold").unlink()
            assert {(await each).status_code for each in asked} == {HEALTHY}

    for server in site.servers:
        (server.folder / "hold").write_text("Held")
    asyncio.run(fill())
    eventually(lambda: site.who_answers() == {0, 1})


def test_a_server_that_stops_loses_nothing(site: Site) -> None:
    leaving = site.servers[0]
    with leaving.hold("Last"):

        async def stop_it() -> None:
            async with httpx.AsyncClient(headers=HEADERS, timeout=PATIENCE_S) as client:
                body = {"messages": [{"role": "user", "content": "Last"}]}
                already = len(leaving.requests)
                asked = [
                    asyncio.create_task(client.post(f"{site.url}/v1/chat/completions", json=body))
                    for _ in range(2)
                ]
                async with asyncio.timeout(PATIENCE_S):
                    while len(leaving.requests) == already:
                        await asyncio.sleep(0.05)
                leaving.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE_S):
                    while site.who_answers() != {1}:
                        await asyncio.sleep(0.05)
                assert {site.ask().status_code for _ in range(10)} == {HEALTHY}
                (leaving.folder / "hold").unlink()
                assert {(await each).status_code for each in asked} == {HEALTHY}

        asyncio.run(stop_it())
        (leaving.folder / "hold").touch()
    assert leaving.process.wait(PATIENCE_S) == 0

    again = ServerAt(leaving.folder, leaving.folder.parent / "files", ADDRESSES[0], leaving.port)
    site.servers[0] = again
    eventually(lambda: site.who_answers() == {0, 1})


def test_a_server_that_is_killed_costs_what_it_had_begun(site: Site) -> None:
    killed = site.servers[1]
    killed.process.kill()
    killed.process.wait()
    # Also before HAProxy has looked at it again: what could not be sent goes to the other.
    assert {site.ask().status_code for _ in range(20)} == {HEALTHY}


def test_without_servers_there_is_a_refusal_in_openais_shape(site: Site) -> None:
    for server in site.servers:
        server.process.kill()
        server.process.wait()
    eventually(lambda: site.ask().status_code == 503)
    answer = site.ask()
    assert answer.headers["retry-after"] == "2" and json.loads(answer.text)["error"]["code"] == 503
    assert httpx.get(f"{site.url}/haproxy").status_code == HEALTHY
