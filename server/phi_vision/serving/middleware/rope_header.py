"""`x-phi-vision-rope: short|long|short,long`: which of LongRoPE's factors a request was computed with.

`vllm_compat.rope_modes` records the modes of a request's sequences on their way through the engine.
"""

from __future__ import annotations

from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.model.rope_mode import HEADER, RopeMode
from phi_vision.serving import metrics
from phi_vision.serving.middleware.held_response import HeldResponse

# The modes of all sequences of the HTTP request at hand, in order.
request_modes: ContextVar[list[RopeMode] | None] = ContextVar("phi_vision_rope_modes", default=None)


class RopeHeader:
    """ASGI middleware; several prompts in one request give each mode once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_on(scope):
            return await self.app(scope, receive, send)
        modes: list[RopeMode] = []
        request_modes.set(modes)
        response = HeldResponse(send)

        async def send_when_known(message: Message) -> None:
            ended = response.add(message)
            if not modes and not ended and not response.begun:
                return
            if modes and response.head is not None:
                MutableHeaders(scope=response.head)[HEADER] = ",".join(dict.fromkeys(modes))
            await response.release()

        await self.app(scope, receive, send_when_known)
        if modes:
            mode: metrics.RopeModes = modes[0] if len(set(modes)) == 1 else "both"
            metrics.ROPE_REQUESTS.labels(mode).inc()


def _is_on(scope: Scope) -> bool:
    return bool(getattr(scope["app"].state, "phi_vision_rope_per_request", False))
