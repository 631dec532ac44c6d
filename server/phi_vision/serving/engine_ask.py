"""Asks the engine from within the server: as a chat request would, with the same guards, tasks and crops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GenerationError
from vllm.utils import random_uuid

from phi_vision.documents.answers import Answer
from phi_vision.errors import RequestError
from phi_vision.model.canvas import Canvas
from phi_vision.serving.chat_service import ChatService, PictureChatRequest
from phi_vision.serving.pictures import Picture
from phi_vision.tasks import requests

_REQUEST_ID = "x-request-id"  # a header, from which vLLM makes the id of its request


class EngineAsk:
    """`documents.pages.Ask` for one HTTP request, which may ask the engine many times, also at once.

    Args:
        raw_request: the HTTP request, whose headers (priority, tracing) count for all that is asked.
    """

    def __init__(self, raw_request: Request) -> None:
        self._raw_request = raw_request
        self._id = raw_request.headers.get(_REQUEST_ID) or random_uuid()
        self._numbers = itertools.count()

    async def __call__(
        self,
        canvases: Sequence[Canvas],
        prompt: str | None,
        *,
        max_tokens: int,
        temperature: float,
        response_format: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Answer a prompt about pictures; with the task `ocr` where there are any.

        Raises:
            RequestError: the engine does not take the request, or fails at it.
        """
        state = self._raw_request.app.state
        service: ChatService = state.phi_vision
        fields = {
            "max_tokens": min(max_tokens, service.max_model_len),
            "temperature": temperature,
            "response_format": response_format,
            "logprobs": True,
        }
        request = _chat_request(service, canvases, prompt, fields)
        try:
            response = await state.openai_serving_chat.create_chat_completion(request, self._numbered())
        except RequestError:
            raise
        except ValueError as error:  # which vLLM's routes answer with 400
            raise RequestError(str(error)) from error
        except GenerationError as error:
            raise RequestError("the engine failed; try again", status=503) from error
        if isinstance(response, ErrorResponse):
            raise RequestError(response.error.message, status=response.error.code)
        return _answer(response)

    def _numbered(self) -> Request:
        """The HTTP request with an id of its own, as the engine takes each id but once."""
        scope = self._raw_request.scope
        headers = [(name, value) for name, value in scope["headers"] if name.decode().lower() != _REQUEST_ID]
        headers.append((_REQUEST_ID.encode(), f"{self._id}-{next(self._numbers)}".encode()))
        return Request({**scope, "headers": headers, "state": dict(scope.get("state", {}))})


def _chat_request(
    service: ChatService, canvases: Sequence[Canvas], prompt: str | None, fields: Mapping[str, Any]
) -> PictureChatRequest:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": "data:,"}} for _ in canvases]
    if prompt is not None:
        parts.append({"type": "text", "text": prompt})
    body = {
        **{name: value for name, value in fields.items() if value is not None},
        **({"task": "ocr"} if canvases else {}),
        "messages": [{"role": "user", "content": parts}],
    }
    applied = requests.apply(body, service.served_names, max_model_len=service.max_model_len)
    request = PictureChatRequest.model_validate(applied.body)
    request.put_pictures([Picture(canvas=canvas) for canvas in canvases])
    if canvases:
        request.end_loops()
    return request


def _answer(response: ChatCompletionResponse) -> Answer:
    choice = response.choices[0]
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    return Answer.from_logprobs(
        choice.message.content or "",
        [(token.token, token.logprob) for token in tokens],
        finish_reason=choice.finish_reason,
        prompt_tokens=response.usage.prompt_tokens,
        completion_tokens=response.usage.completion_tokens or 0,
    )
