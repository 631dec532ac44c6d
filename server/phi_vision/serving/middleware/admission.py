"""Admission control: a request is refused while the server is full or stopping, before its body is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from phi_vision.serving import metrics
from phi_vision.serving.batch_places import is_batch_line
from phi_vision.serving.http import SAFE_METHODS, error_response
from phi_vision.serving.lifecycle import Lifecycle
from phi_vision.serving.middleware import request_counts


class AdmissionControl:
    """Middleware that counts requests while they are at work, and answers 429 or 503 where it admits none.

    A line of a batch has been admitted by `BatchPlaces` and is not counted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request or refuse it."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or is_batch_line.get():
            await self.app(scope, receive, send)
            return
        lifecycle: Lifecycle = scope["app"].state.phi_vision_lifecycle
        if (error := lifecycle.admit()) is not None:
            request_counts.note(refusal="queue_full" if error.status == 429 else "stopping")
            await error_response(error)(scope, receive, send)
            return
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                await self.app(scope, receive, send)
        finally:
            lifecycle.leave()
