"""The API key for every route that works for the client.

Symptom: without a key, `POST /invocations` generates and `POST /tokenize` fetches pictures.
Cause: vLLM asks for the key under `/v1` and a few other prefixes only.
Can go: when vLLM asks for it on all routes.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from phi_vision.errors import RequestError
from phi_vision.serving.http import SAFE_METHODS, error_response


class ApiKeyMiddleware(AuthenticationMiddleware):
    """vLLM's check of the key, for all paths and every method that is not safe."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 without a valid key."""
        protected = scope["type"] == "websocket" or (
            scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        )
        if protected and not self.verify_token(Headers(scope=scope)):
            error = RequestError("send the API key as `Authorization: Bearer KEY`", status=401)
            await error_response(error)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
