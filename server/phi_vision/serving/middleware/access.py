"""The key for every route that does work. vLLM asks for it under `/v1` and a few prefixes only, while
`POST /invocations` generates and `POST /tokenize` fetches pictures without one."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from phi_vision.errors import RequestError
from phi_vision.serving.middleware.request_limits import READING, error_response


class KeyForAllWork(AuthenticationMiddleware):
    """vLLM's check, for all paths and every method that is not just reading."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        working = scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in READING)
        if working and not self.verify_token(Headers(scope=scope)):
            error = RequestError("send the API key as `Authorization: Bearer KEY`", status=401)
            await error_response(error)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
