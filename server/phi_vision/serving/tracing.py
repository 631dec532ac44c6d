"""Spans of a request beside vLLM's own: with `--otlp-traces-endpoint`, else nothing.

    POST /v1/chat/completions   of each request to a route that does work (`middleware/request_spans`)
      fetch                     of each picture and document by URL
      render                    of the prompt
        draw                    of each picture
      llm_request               vLLM's, once it has ended

vLLM exports through OpenTelemetry's global provider, and so do these. No attribute holds what a client sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Tracer

_tracer: Tracer | None = None  # of this process


def start(endpoint: str | None) -> bool:
    """Trace from now on if vLLM does, which has set up the provider for its endpoint; whether it does."""
    global _tracer
    if endpoint is not None:
        from opentelemetry.trace import get_tracer

        _tracer = get_tracer("phi_vision")
    return _tracer is not None


@contextmanager
def span(name: str, context: Context | None = None, kind: SpanKind | None = None) -> Iterator[Span | None]:
    """The time of a block, a child of the span at hand; None where nothing is traced.

    Args:
        name: of what is done.
        context: which holds another parent, or none.
        kind: for example a server's.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    with _tracer.start_as_current_span(
        name,
        context,
        kind or SpanKind.INTERNAL,
        record_exception=False,  # messages of errors name hosts
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException:
            opened.set_status(Status(StatusCode.ERROR))
            raise
