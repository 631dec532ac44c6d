"""What a collector gets of requests: the parts of each in one trace, and nothing that a client has sent."""

from __future__ import annotations

import functools
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.collector import Collector, running_collector
from tests.support.pdf import pdf, text_page
from tests.support.pictures import data_url, encoded, reference_picture
from tests.support.serving import eventually
from tests.support.stub_server import StubServer, running_stub

pytestmark = pytest.mark.full

SECRET = "a-secret-that-no-span-holds"
CHAT = "POST /v1/chat/completions"


@dataclass
class Traced:
    """A server whose spans are collected.

    Args:
        server: it.
        collector: of its spans.
        pictures: URL of a folder with `picture.png`.
    """

    server: StubServer
    collector: Collector
    pictures: str

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return httpx.post(
            f"{self.server.url}{path}", json={"model": "phi-3.5-vision", **body}, headers=headers
        )

    def trace(self, trace_id: bytes, count: int) -> list[Span]:
        """All spans of a trace, once there are so many."""
        eventually(lambda: len(self.collector.of(trace_id)) >= count)
        spans = self.collector.of(trace_id)
        assert len(spans) == count, [span.name for span in spans]
        assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in spans)
        assert SECRET not in str(spans) and "picture.png" not in str(spans)
        return spans


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "picture.png").write_bytes(encoded(reference_picture(200, 100, seed=1)))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with running_collector() as collector, ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        flags = ("--otlp-traces-endpoint", collector.url, "--allow-private-media", "127.0.0.0/8")
        env = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with running_stub(folder, *flags, env=env) as server:
            yield Traced(server, collector, f"http://127.0.0.1:{host.server_address[1]}")
        host.shutdown()


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def asked(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": SECRET}]}]}


def parents(spans: list[Span]) -> list[tuple[str, str | None]]:
    """Each with the name of its parent; None: it is none of ours."""
    names = {span.span_id: span.name for span in spans}
    return sorted((span.name, names.get(span.parent_span_id)) for span in spans)


def attributes(span: Span) -> dict[str, Any]:
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in span.attributes
    }


def test_the_parts_of_a_request_are_children_of_the_clients_span(traced: Traced) -> None:
    trace_id, client = secrets.token_bytes(16), secrets.token_bytes(8)
    inline = data_url(encoded(reference_picture(300, 300, seed=2)))
    body = asked(picture(f"{traced.pictures}/picture.png?token={SECRET}"), picture(inline))
    answer = traced.post("/v1/chat/completions", body, traceparent=f"00-{trace_id.hex()}-{client.hex()}-01")
    assert answer.status_code == 200, answer.text
    spans = traced.trace(trace_id, 6)
    assert parents(spans) == [
        (CHAT, None),
        ("draw", "render"),
        ("draw", "render"),
        ("fetch", CHAT),
        ("llm_request", CHAT),
        ("render", CHAT),
    ]
    (request,) = (span for span in spans if span.name == CHAT)
    assert request.parent_span_id == client and request.kind == Span.SPAN_KIND_SERVER
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    for span in spans:
        assert span.start_time_unix_nano >= request.start_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano or span.name == "llm_request"


def test_a_request_without_a_client_span_is_a_trace_of_its_own(traced: Traced) -> None:
    before = len(traced.collector.roots(CHAT))
    for _ in range(2):
        assert traced.post("/v1/chat/completions", asked()).status_code == 200
    eventually(lambda: len(traced.collector.roots(CHAT)) == before + 2)
    traces = {span.trace_id for span in traced.collector.roots(CHAT)[before:]}
    assert len(traces) == 2
    for trace_id in traces:
        assert parents(traced.trace(trace_id, 3)) == [(CHAT, None), ("llm_request", CHAT), ("render", CHAT)]


def test_each_page_of_a_document_is_in_its_trace(traced: Traced) -> None:
    trace_id = secrets.token_bytes(16)
    document = data_url(pdf(text_page("one"), text_page("two")), "application/pdf")
    answer = traced.post(
        "/v1/ocr",
        {"document": {"type": "document_url", "document_url": document}, "retries": False, "tiles": "off"},
        traceparent=f"00-{trace_id.hex()}-{'12' * 8}-01",
    )
    assert [page["status"] for page in answer.json()["pages"]] == ["complete"] * 2
    spans = traced.trace(trace_id, 1 + 2 * 3)
    ocr = "POST /v1/ocr"
    assert parents(spans) == [
        (ocr, None),
        *[("draw", ocr)] * 2,
        *[("llm_request", ocr)] * 2,
        *[("render", ocr)] * 2,
    ]


def test_each_line_of_a_batch_is_a_trace(traced: Traced) -> None:
    client = traced.server.client()
    body = {"model": "phi-3.5-vision", **asked()}
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(2)
    ]
    before = len(traced.collector.roots(CHAT))
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    eventually(lambda: client.batches.retrieve(batch.id).status == "completed")
    eventually(lambda: len(traced.collector.roots(CHAT)) == before + 2)
    traces = {span.trace_id for span in traced.collector.roots(CHAT)[before:]}
    assert len(traces) == 2
    for trace_id in traces:
        traced.trace(trace_id, 3)


def test_what_fails_is_marked_and_says_nothing(traced: Traced) -> None:
    trace_id = secrets.token_bytes(16)
    answer = traced.post(
        "/v1/chat/completions",
        asked(picture(f"{traced.pictures}/{SECRET}.png")),
        traceparent=f"00-{trace_id.hex()}-{'12' * 8}-01",
    )
    assert answer.status_code == 400
    spans = traced.trace(trace_id, 2)
    failed = {span.name for span in spans if span.status.code == Status.STATUS_CODE_ERROR}
    assert failed == {"fetch"}  # the request is the client's mistake
    assert not any(span.events or span.status.message for span in spans)


def test_probes_and_the_page_have_no_spans(traced: Traced) -> None:
    before = len(traced.collector.spans)
    for path in ("/livez", "/readyz", "/", "/metrics"):
        assert httpx.get(f"{traced.server.url}{path}").status_code == 200
    assert httpx.get(f"{traced.server.url}/v1/models").status_code == 200  # which has one
    eventually(lambda: len(traced.collector.spans) > before)
    assert [span.name for span in traced.collector.spans[before:]] == ["GET /v1/models"]
