"""A span of each request to a route that does work: a child of the client's, the parent of what follows."""

from __future__ import annotations

from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.serving import metrics, tracing
from phi_vision.serving.middleware.request_counts import route_of

_PROPAGATOR = TraceContextTextMapPropagator()
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestSpans:
    """ASGI middleware, where tracing is on. The routes see this span in the place of the client's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or (route := route_of(scope["path"])) == metrics.OTHER:
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"  # OpenTelemetry's word
        with tracing.span(f"{method} {route}", _PROPAGATOR.extract(headers), SpanKind.SERVER) as span:
            assert span is not None
            span.set_attributes({"http.request.method": method, "http.route": route})

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            ours: dict[str, str] = {}
            _PROPAGATOR.inject(ours)
            others = [pair for pair in scope["headers"] if pair[0].decode() not in _PROPAGATOR.fields]
            await self.app({**scope, "headers": [*others, *Headers(ours).raw]}, receive, watched)
