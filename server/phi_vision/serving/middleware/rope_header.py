"""`x-phi-vision-rope`: which of LongRoPE's factors a request was computed with (`rope_mode`).

All routes (chat, completions, responses, messages) meet in `EngineClient.generate`; that one method
of the one client object is wrapped to see the lengths of prompts and answers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from phi_vision.model.rope_mode import HEADER, RopeMode, mode_from, modes

# What is known of the HTTP request at hand: the modes of all its sequences.
_modes: ContextVar[list[RopeMode] | None] = ContextVar("phi_vision_rope", default=None)


def note_modes(engine_client: EngineClient) -> None:
    """Have `engine_client.generate` note the modes of what it answers."""
    generate = engine_client.generate

    def generate_and_note(
        prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        outputs = generate(prompt, sampling_params, request_id, **options)
        noted = _modes.get()
        if noted is None or not isinstance(prompt, dict) or "prompt_token_ids" not in prompt:
            return outputs
        noted.append(mode_from(len(prompt["prompt_token_ids"])))
        # The head of a stream is gone when its answer grows.
        streams = sampling_params.output_kind == RequestOutputKind.DELTA
        return outputs if streams else _noting(outputs, len(prompt["prompt_token_ids"]), noted)

    engine_client.generate = generate_and_note


async def _noting(
    outputs: AsyncGenerator[RequestOutput, None], prompt_tokens: int, noted: list[RopeMode]
) -> AsyncGenerator[RequestOutput, None]:
    async with aclosing(outputs):
        async for output in outputs:
            for answer in output.outputs:
                noted += modes(prompt_tokens, len(answer.token_ids))
            yield output


class RopeHeader:
    """ASGI middleware: `x-phi-vision-rope: short|long|short,long` on what an engine answered.

    Some routes send the head of a stream before they ask the engine. It is kept back until they do,
    which needs no work of the model. Several prompts in one request give each mode once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_on(scope):
            return await self.app(scope, receive, send)
        noted: list[RopeMode] = []
        _modes.set(noted)
        waiting: list[Message] = []

        async def send_when_known(message: Message) -> None:
            waiting.append(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not noted and not ended:
                return
            if noted and waiting[0]["type"] == "http.response.start":
                MutableHeaders(scope=waiting[0])[HEADER] = ",".join(dict.fromkeys(noted))
            for kept in waiting:
                await send(kept)
            waiting.clear()

        await self.app(scope, receive, send_when_known)


def _is_on(scope: Scope) -> bool:
    return bool(getattr(scope["app"].state, "phi_vision_rope_per_request", False))
