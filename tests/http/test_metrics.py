"""`/metrics` of a server whose engine is a stub: what each request adds, and nothing of what it holds."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from phi_vision.serving import metrics
from PIL import Image

from tests.support.pdf import pdf, picture_page
from tests.support.pictures import data_url, encoded, image_part, reference_picture, user
from tests.support.prometheus import DASHBOARD, RULES, panels, running_prometheus
from tests.support.scraped import scraped, total
from tests.support.serving import eventually
from tests.support.stub_engine import ScriptedAnswer
from tests.support.stub_server import QUEUE, StubServer

MODEL = "phi-3.5-vision"
CHAT: Any = "/v1/chat/completions"
SECRET = "sk-9f2c"


class Change:
    """What has been added to a server's metrics since this object was made."""

    def __init__(self, stub: StubServer) -> None:
        self._url = stub.url
        self._before = scraped(stub.url)

    def of(self, name: str, **labels: str) -> float:
        now = scraped(self._url)
        return total(now, f"phi_vision_{name}", **labels) - total(
            self._before, f"phi_vision_{name}", **labels
        )

    def wait_for(self, added: float, name: str, **labels: str) -> None:
        """A request counts once it has ended, a moment after its client has the answer."""
        eventually(lambda: self.of(name, **labels) == added)


def chat(stub: StubServer, *parts: Any, **more: Any) -> httpx.Response:
    return httpx.post(stub.url + CHAT, json={"model": MODEL, "messages": [user(*parts)], **more})


def watched() -> set[str]:
    """The metrics that the rules and the dashboard name."""
    texts = (file.read_text() for file in (RULES, DASHBOARD))
    return {name for text in texts for name in re.findall(r"\b(?:phi_vision_|vllm:)\w+", text)}


def paper(grey: int) -> Any:
    image = Image.new("RGB", (600, 600), (grey,) * 3)
    image.paste((0, 0, 0), (100, 100, 500, 130))
    return picture_page(image)


def test_a_picture_and_what_it_costs(stub: StubServer) -> None:
    change = Change(stub)
    answer = chat(stub, image_part(reference_picture(800, 600, seed=11)), task="caption")
    assert answer.status_code == 200
    change.wait_for(1, "requests_total", route=CHAT, task="caption", status="2xx")
    change.wait_for(1, "rope_requests_total", mode="short")
    assert change.of("pictures_total", kind="picture") == 1
    assert change.of("crops_total") == float(answer.headers["x-phi-vision-num-crops"])
    assert change.of("image_tokens_total") == float(answer.headers["x-phi-vision-image-tokens"])
    for stage, times in (("fetch", 0), ("draw", 1), ("engine", 1)):
        assert change.of("stage_seconds_count", stage=stage) == times
    assert change.of("stage_seconds_sum", stage="engine") > 0


def test_the_pages_of_a_document_by_status(stub: StubServer) -> None:
    change = Change(stub)
    answers = [
        ScriptedAnswer("all of it", paper=250),
        ScriptedAnswer("much of", paper=230, finish="length"),
        ScriptedAnswer("more more more", paper=210, finish="repetition"),
    ]
    blank = picture_page(Image.new("RGB", (600, 600), "white"))
    url = data_url(pdf(paper(250), paper(230), paper(210), blank), "application/pdf")
    body = {
        "model": MODEL,
        "document": {"type": "document_url", "document_url": url},
        "retries": False,
        "tiles": "off",
    }
    with stub.answers(*answers):
        assert httpx.post(f"{stub.url}/v1/ocr", json=body).status_code == 200
    for status in ("complete", "truncated", "repetition", "blank"):
        assert change.of("pages_total", status=status) == 1, status
    assert change.of("pages_total") == 4
    assert change.of("pictures_total", kind="reading") == change.of("pictures_total") == 3
    change.wait_for(1, "requests_total", route="/v1/ocr", task="ocr", status="2xx")


def test_pages_in_a_chat_are_pages(stub: StubServer) -> None:
    change = Change(stub)
    file = {"type": "file", "file": {"file_data": data_url(pdf(paper(250), paper(230)), "application/pdf")}}
    assert chat(stub, file, "what is it?").status_code == 200
    assert change.of("pictures_total", kind="page") == change.of("pictures_total") == 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"http://127.0.0.1:9/{SECRET}", "address"),
        (f"ftp://host.example/{SECRET}", "url"),
        (f"data:image/png;base64,{SECRET}!", "data"),
    ],
)
def test_a_fetch_that_is_refused_leaves_its_reason_alone(stub: StubServer, url: str, reason: str) -> None:
    change = Change(stub)
    part = {"type": "image_url", "image_url": {"url": url}}
    assert chat(stub, part, "what is it?").status_code == 400
    assert change.of("fetch_refusals_total", reason=reason) == change.of("fetch_refusals_total") == 1
    change.wait_for(1, "requests_total", route=CHAT, task="none", status="4xx")
    change.wait_for(1, "refusals_total", reason="invalid")


def test_a_client_that_leaves(stub: StubServer) -> None:
    change = Change(stub)
    body = json.dumps({"model": MODEL, "messages": [user("hello")]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    number = len(stub.requests)
    with stub.hold():
        with socket.create_connection(("127.0.0.1", stub.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: len(stub.requests) > number)
            assert change.of("requests_in_flight") == 1
        change.wait_for(1, "requests_total", route=CHAT, status="disconnected")
    change.wait_for(0, "requests_in_flight")


def test_a_wrong_key_and_the_most_requests(keyed: StubServer) -> None:
    change = Change(keyed)
    assert chat(keyed, "hello").status_code == 401
    change.wait_for(1, "refusals_total", reason="api_key")
    assert total(scraped(keyed.url), "phi_vision_requests_limit") == QUEUE


def test_the_lines_of_a_batch(stub: StubServer) -> None:
    change = Change(stub)
    client: openai.OpenAI = stub.client()
    line = {"custom_id": "a", "method": "POST", "url": CHAT}
    bodies = [{"model": MODEL, "messages": [user(f"line {n} of metrics")]} for n in range(3)]
    data = "\n".join(json.dumps({**line, "custom_id": str(n), "body": b}) for n, b in enumerate(bodies))
    file = client.files.create(file=("in.jsonl", data.encode()), purpose="batch")
    with stub.hold("of metrics"):
        batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        change.wait_for(3, "batch_items")
        assert change.of("requests_in_flight") == 0
    eventually(lambda: client.batches.retrieve(batch.id).status == "completed")
    change.wait_for(0, "batch_items")
    change.wait_for(3, "requests_total", route=CHAT, status="2xx")


def test_all_that_is_watched_is_there(stub: StubServer) -> None:
    """Also that no label holds anything but what is declared."""
    change = Change(stub)
    chat(stub, image_part(encoded(reference_picture(80, 60, seed=1))), task="caption", stream=True)
    chat(stub, f"{SECRET} https://host.example/", user=SECRET)
    change.wait_for(2, "requests_total", route=CHAT)
    text = httpx.get(f"{stub.url}/metrics").text
    assert SECRET not in text and "host.example" not in text
    found = scraped(stub.url)
    there = {sample.name for sample in found}
    assert watched() and watched() <= there
    for declared in metrics.DECLARED:
        own = [s for s in found if s.name.startswith(declared.name) and not s.name.endswith("_created")]
        assert own, declared.name
        for sample in own:
            for label, value in sample.labels.items():
                assert label == "le" or value in declared.labels[label], sample


@pytest.mark.full
def test_prometheus_scrapes_it(stub: StubServer, tmp_path: Path) -> None:
    with running_prometheus(tmp_path, stub.url) as prometheus:
        assert chat(stub, image_part(reference_picture(80, 60, seed=2)), task="caption").status_code == 200
        eventually(lambda: all(prometheus.now(name) for name in watched()))
        for panel in panels():
            for target in panel["targets"]:
                prometheus.now(target["expr"].replace("$__rate_interval", "10s"))
        (group,) = prometheus.get("rules")["groups"]
        eventually(lambda: all(r["health"] == "ok" for r in prometheus.get("rules")["groups"][0]["rules"]))
        assert group["rules"] and not prometheus.get("alerts")["alerts"]
