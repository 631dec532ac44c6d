"""Counts each request once it has ended: by route, task and status, and why it was refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.serving import metrics
from phi_vision.serving.http import SAFE_METHODS
from phi_vision.serving.metrics import RefusalReason, StatusClass

# What a status says where nobody has noted more; other statuses from 400 to 499 are `invalid`.
_REASONS: Mapping[int, RefusalReason] = {
    401: "api_key",
    403: "origin",
    404: "not_found",
    408: "too_slow",
    413: "too_large",
    421: "misdirected",
    429: "busy",
    503: "unavailable",
}


@dataclass
class Seen:
    """What is known of the HTTP request at hand.

    Args:
        task: that it was resolved to.
        refusal: why it was refused, where the status does not tell.
        status: of its answer.
        ended: its answer has been sent.
        gone: its client went before that.
    """

    task: str = metrics.NO_TASK
    refusal: RefusalReason | None = None
    status: int | None = None
    ended: bool = False
    gone: bool = False


_seen: ContextVar[Seen | None] = ContextVar("phi_vision_request_seen", default=None)


def note(*, task: str | None = None, refusal: RefusalReason | None = None) -> None:
    """Say more about the request at hand."""
    if (seen := _seen.get()) is not None:
        seen.task = task or seen.task
        seen.refusal = refusal or seen.refusal


class RequestCounts:
    """ASGI middleware around all others, so that what they refuse is counted too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen = Seen()
        _seen.set(seen)

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not seen.ended:
                seen.gone = True
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            elif not message.get("more_body", False):
                seen.ended = True
            try:
                await send(message)
            except OSError:  # uvicorn's way to say that the client has gone
                seen.gone = True
                raise

        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception:
            seen.status = seen.status or 500
            raise
        finally:
            _count(scope, seen)


def _count(scope: Scope, seen: Seen) -> None:
    route, status = route_of(scope["path"]), _status_class(seen)
    metrics.REQUESTS.labels(route, seen.task, status).inc()
    asks_nothing = route == metrics.OTHER and scope["method"] in SAFE_METHODS  # probes, and visitors of `/`
    if seen.status is None or asks_nothing or not (400 <= seen.status < 500 or seen.status == 503):
        return
    metrics.REFUSALS.labels(seen.refusal or _REASONS.get(seen.status, "invalid")).inc()


def route_of(path: str) -> str:
    """The route of `metrics.ROUTES` that a path is, or is below; else `other`."""
    for route in metrics.ROUTES:
        if path == route or path.startswith(f"{route}/"):
            return route
    return metrics.OTHER


def _status_class(seen: Seen) -> StatusClass:
    if seen.gone or seen.status is None:
        return "disconnected"
    if seen.status == 429:
        return "429"
    classes: Mapping[int, StatusClass] = {2: "2xx", 3: "3xx", 4: "4xx"}
    return classes.get(seen.status // 100, "5xx")
