"""A refused structured-output spec is a 400 with its field, whatever vLLM's route makes of the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.errors import RequestError
from phi_vision.serving.grammars.bounds import Kind
from phi_vision.serving.grammars.request_state import GrammarState, grammar_state
from phi_vision.serving.grammars.trials import TrialFailed
from phi_vision.serving.http import error_response
from phi_vision.serving.middleware.body import PROMPT_FIELDS
from phi_vision.serving.middleware.body_reader import PARSED_BODY
from phi_vision.serving.middleware.held_response import HeldResponse


class GrammarErrors:
    """ASGI middleware around the routes whose specs `vllm_compat.structured_outputs` checks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        state = GrammarState()
        grammar_state.set(state)
        # Not the whole body: its files would be in memory until the answer has ended.
        parsed = scope.get(PARSED_BODY, {})
        options = {name: value for name, value in parsed.items() if name not in PROMPT_FIELDS}
        response = HeldResponse(send)

        async def send_when_tried(message: Message) -> None:
            if state.error is not None and not response.begun:
                return  # answered below
            ended = response.add(message)
            if response.begun or state.reached_engine or ended:
                await response.release()

        try:
            await self.app(scope, receive, send_when_tried)
        except Exception:  # Starlette's own, which believes that the head was sent
            if state.error is None or response.begun:
                raise
        if state.error is not None and not response.begun:
            await error_response(_request_error(state, options))(scope, receive, send)


def _request_error(state: GrammarState, body: Mapping[str, Any]) -> RequestError:
    if state.error is None or isinstance(state.error, TrialFailed):
        return RequestError("structured outputs cannot be checked just now", status=503, retry_after_s=5)
    option = state.error.option
    field = f"structured_outputs.{option}" if option else field_of(state.kind, body)
    return RequestError(f"{field}: {state.error}", param=field)


def field_of(kind: Kind | None, body: Mapping[str, Any]) -> str:
    """The field of a request's body that a spec of this kind came from.

    Schemas and structural tags also come from tools that must be called, then from a response's format.
    """
    if kind in ("json", "json_object", "structural_tag"):
        if body.get("tools") and body.get("tool_choice", "auto") not in ("auto", "none", {"type": "auto"}):
            return "tools"
        for name, inner in (
            ("response_format", None),
            ("document_annotation_format", None),
            ("text", "format"),
            ("output_config", "format"),
        ):
            value = body.get(name)
            if inner and isinstance(value, dict):
                value = value.get(inner)
            if isinstance(value, dict) and value.get("type") != "text":
                return f"{name}.{inner}" if inner else name
    outer = "sampling_params." if "sampling_params" in body else ""
    return f"{outer}structured_outputs.{kind}"
