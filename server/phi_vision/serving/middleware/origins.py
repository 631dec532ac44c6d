"""Refuses requests that web pages of other origins send through the browser of a user of this server."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from phi_vision.serving.http import error_response
from phi_vision.serving.origin_rule import OriginRule


class OriginMiddleware:
    """Middleware that answers 403 to what a web page of another origin may have sent.

    Args:
        app: the next ASGI application.
        rule: what is refused.
    """

    def __init__(self, app: ASGIApp, rule: OriginRule) -> None:
        self.app = app
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        error = self._rule.refusal(scope.get("method"), path, scope["headers"])
        if error is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
        else:
            await error_response(error)(scope, receive, send)
