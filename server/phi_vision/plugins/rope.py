"""Where every request gets its rope mode: between vLLM's routes and its engine.

Symptom: with one engine for all lengths, vLLM gives every request the long factors.
Cause: it knows no mode of a request, and has no hook between a route, which knows the prompt and
`max_tokens`, and the engine. All routes (chat, completions, responses, messages) meet in
`EngineClient.generate`; that one method of the one client object is wrapped.
Can go: when vLLM chooses LongRoPE's factors per request, or lets a plugin see rendered requests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.engine.protocol import EngineClient
from vllm.multimodal.inputs import (
    MultiModalFieldElem,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    MultiModalSharedField,
    PlaceholderRange,
)
from vllm.sampling_params import SamplingParams

from phi_vision.rope_mode import HEADER, SHORT_MARK, RopeMode, cache_salt, plan


@dataclass
class _Note:
    """What is known of the HTTP request at hand."""

    max_tokens_asked: bool | None = None  # None: the route does not say
    modes: list[RopeMode] = field(default_factory=list)  # one a prompt


_note: ContextVar[_Note | None] = ContextVar("phi_vision_rope", default=None)


def note_max_tokens(asked: bool) -> None:
    """Say whether the client of the current request set the length of the answer."""
    if (note := _note.get()) is not None:
        note.max_tokens_asked = asked


def choose_per_request(engine_client: EngineClient) -> None:
    """Let `engine_client.generate` decide each request's mode and mark the request with it."""
    generate = engine_client.generate

    def generate_in_mode(
        prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        if isinstance(prompt, dict) and prompt.get("type") in ("token", "multimodal"):
            note = _note.get() or _Note()
            max_model_len = engine_client.model_config.max_model_len
            prompt, sampling_params = in_mode(prompt, sampling_params, note, max_model_len)
        return generate(prompt, sampling_params, request_id, **options)

    engine_client.generate = generate_in_mode


def in_mode(
    prompt: dict[str, Any], params: SamplingParams, note: _Note, max_model_len: int
) -> tuple[dict[str, Any], SamplingParams]:
    """The rendered prompt and the sampling parameters as the engine is to get them.

    A route that does not say whether the client set `max_tokens` is judged by the number: one that
    reaches the end of the context is what vLLM fills in.
    """
    num_tokens = len(prompt["prompt_token_ids"])
    to_the_end = max_model_len - num_tokens
    max_tokens = to_the_end if params.max_tokens is None else params.max_tokens
    asked = max_tokens < to_the_end if note.max_tokens_asked is None else note.max_tokens_asked
    chosen = plan(num_tokens, max_tokens, asked=asked, min_tokens=params.min_tokens)
    note.modes.append(chosen.mode)
    if chosen.max_tokens != params.max_tokens:
        params = params.clone()
        params.max_tokens = chosen.max_tokens
    prompt = {**prompt, "cache_salt": cache_salt(chosen.mode, prompt.get("cache_salt"))}
    return (_marked_short(prompt) if chosen.mode == "short" else prompt), params


def _marked_short(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with an empty item in front, whose modality alone says something.

    It takes no tokens, so no scheduler or runner ever sees it in its window; it goes where the
    request goes, through preemption too, up to `get_mrope_input_positions`.
    """
    nothing = MultiModalFieldElem(
        torch.zeros(1, dtype=torch.uint8), MultiModalSharedField(batch_size=1, keep_on_cpu=True)
    )
    item = MultiModalKwargsItem({SHORT_MARK: nothing})
    return {
        **prompt,
        "type": "multimodal",
        "mm_kwargs": MultiModalKwargsItems({SHORT_MARK: [item], **prompt.get("mm_kwargs", {})}),
        "mm_hashes": {SHORT_MARK: [SHORT_MARK], **prompt.get("mm_hashes", {})},
        "mm_placeholders": {
            SHORT_MARK: [PlaceholderRange(offset=0, length=0)],
            **prompt.get("mm_placeholders", {}),
        },
    }


class RopeHeader:
    """ASGI middleware: `x-phi-vision-rope: short|long` on what an engine answered.

    Some routes send the head of a stream before they ask the engine. It is kept back until they do,
    which needs no work of the model. Several prompts in one request give each mode once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_on(scope):
            return await self.app(scope, receive, send)
        note = _Note()
        _note.set(note)
        waiting: list[Message] = []

        async def send_when_known(message: Message) -> None:
            waiting.append(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not note.modes and not ended:
                return
            if note.modes and waiting[0]["type"] == "http.response.start":
                MutableHeaders(scope=waiting[0])[HEADER] = ",".join(dict.fromkeys(note.modes))
            for kept in waiting:
                await send(kept)
            waiting.clear()

        await self.app(scope, receive, send_when_known)


def _is_on(scope: Scope) -> bool:
    return bool(getattr(scope["app"].state, "phi_vision_rope_per_request", False))
