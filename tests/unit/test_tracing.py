"""Spans without a server: which there are, whose children they are, and what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from phi_vision.serving import metrics, tracing
from phi_vision.serving.middleware.request_spans import RequestSpans
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

CLIENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What has ended."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def ask(path: str, *, method: str = "POST", status: int = 200, **headers: str) -> Headers:
    """A request through the middleware to a route that fetches a picture; the headers that this saw."""
    seen = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(Headers(scope=scope))
        with tracing.span("render"), metrics.timing("fetch"):
            await asyncio.gather(asyncio.sleep(0))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    raw = Headers({"authorization": "Bearer key", **headers}).raw
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(RequestSpans(route)(scope, receive, send))
    return seen[0]


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_request_is_a_child_of_the_clients_and_the_parent_of_the_rest(spans: InMemorySpanExporter) -> None:
    seen = ask("/v1/ocr", traceparent=CLIENT, tracestate="vendor=1")
    found = by_name(spans)
    assert set(found) == {"POST /v1/ocr", "render", "fetch"}
    request = found["POST /v1/ocr"]
    assert parent_id(request) == int("cd" * 8, 16) and request.kind == SpanKind.SERVER
    assert parent_id(found["fetch"]) == found["render"].context.span_id
    assert parent_id(found["render"]) == request.context.span_id
    assert {span.context.trace_id for span in found.values()} == {int("ab" * 16, 16)}
    # vLLM makes `llm_request` a child of what the headers name.
    assert seen["traceparent"] == f"00-{'ab' * 16}-{request.context.span_id:016x}-01"
    assert seen.getlist("traceparent") == [seen["traceparent"]] and seen["tracestate"] == "vendor=1"
    assert seen["authorization"] == "Bearer key"


def test_a_request_by_itself_begins_a_trace(spans: InMemorySpanExporter) -> None:
    for _ in range(2):
        ask("/v1/files/file-secret/content", method="SECRET")
    requests = [span for span in spans.get_finished_spans() if span.kind == SpanKind.SERVER]
    assert [span.name for span in requests] == ["_OTHER /v1/files"] * 2
    assert len({span.context.trace_id for span in requests}) == 2
    assert dict(requests[0].attributes or {}) == {
        "http.request.method": "_OTHER",
        "http.route": "/v1/files",
        "http.response.status_code": 200,
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/", "/v1/queue"])
def test_what_is_asked_every_second_has_none(spans: InMemorySpanExporter, path: str) -> None:
    ask(path, method="GET", traceparent=CLIENT)
    assert set(by_name(spans)) == {"render", "fetch"}  # of this test's route


@pytest.mark.parametrize(("status", "code"), [(200, "UNSET"), (429, "UNSET"), (503, "ERROR")])
def test_only_the_servers_own_errors_are_marked(spans: InMemorySpanExporter, status: int, code: str) -> None:
    ask("/v1/ocr", status=status)
    assert by_name(spans)["POST /v1/ocr"].status.status_code is StatusCode[code]


def test_a_part_that_fails_is_marked_without_its_message(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError), metrics.timing("draw"):
        raise ValueError("https://host/secret")
    (draw,) = spans.get_finished_spans()
    assert draw.status.status_code is StatusCode.ERROR and not draw.status.description and not draw.events


def test_the_engine_has_vllms_span_alone(spans: InMemorySpanExporter) -> None:
    with metrics.timing("engine"):
        pass
    assert not spans.get_finished_spans()


def test_nothing_is_traced_without_an_endpoint() -> None:
    assert not tracing.start(None)
    with tracing.span("render") as span:
        assert span is None
