"""Tasks and documents on `/v1/responses`: a route in the place of vLLM's, which then does the rest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response import IncompleteDetails
from pydantic import PrivateAttr
from vllm.config import ModelConfig
from vllm.entrypoints.openai.responses import api_router as vllm_responses
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest, ResponsesResponse
from vllm.entrypoints.serve.utils.api_utils import with_cancellation
from vllm.renderers.params import TokenizeParams

from phi_vision.documents.answers import Answer, Status, status_of
from phi_vision.serving import openapi
from phi_vision.serving.documents import Documents
from phi_vision.serving.middleware import request_counts
from phi_vision.serving.middleware.body_reader import PARSED_BODY
from phi_vision.serving.pictures import Picture
from phi_vision.serving.request_body import json_body, validated
from phi_vision.serving.routes.files import owner_of
from phi_vision.serving.vllm_compat import loop_guard
from phi_vision.tasks import presets, responses
from phi_vision.tasks.responses import PlacedPart

router = APIRouter()

PATH = "/v1/responses"
_VLLM_ROUTE = next(
    route
    for route in vllm_responses.router.routes
    if isinstance(route, APIRoute) and route.path == PATH and "POST" in route.methods
)


class DocumentResponsesRequest(loop_guard.EndsLoops, ResponsesRequest):
    """A request whose documents are pictures of their pages, and which sees its response."""

    _answer_status: Status | None = PrivateAttr(default=None)

    @property
    def answer_status(self) -> Status | None:
        """How the answer ended; None before that."""
        return self._answer_status

    def see_response(self, response: ResponsesResponse, finish_reason: str | None) -> None:
        """Note how it ended. One that ran in a loop is incomplete, and has log-probabilities of its text."""
        self._answer_status = status_of(Answer("", finish_reason=finish_reason or "stop"))
        if self._answer_status != "repetition":
            return
        response.status = "incomplete"
        # vLLM's word for it, as on the chat route; not one of OpenAI's, which pydantic would insist on.
        response.incomplete_details = IncompleteDetails.model_construct(reason="repetition")
        for item in response.output:
            for text in item.content if isinstance(item, ResponseOutputMessage) else ():
                if isinstance(text, ResponseOutputText) and text.logprobs:
                    text.logprobs = loop_guard.tokens_left(text.text, text.logprobs)

    def build_tok_params(self, model_config: ModelConfig) -> TokenizeParams:
        """As on the chat route: the template writes `<s>`, so that the tokenizer would add a second one."""
        return replace(super().build_tok_params(model_config), add_special_tokens=False)

    def put_pages(self, placed: list[PlacedPart], opened: list[list[Picture]]) -> None:
        """Have vLLM's parser find a document's pages in its place. Other pictures stay as they are.

        vLLM may keep them for a later request (`previous_response_id`), which a drawn picture is not.
        """
        pages = {
            (place.item, place.part): pictures
            for place, pictures in zip(placed, opened, strict=True)
            if place.media.is_file or pictures[0].view is not None
        }
        for i in {item for item, _ in pages}:
            item: Any = self.input[i]
            parts = [
                [{"type": "image_pil", "image_pil": picture} for picture in pages[i, p]]
                if (i, p) in pages
                else [part]
                for p, part in enumerate(item["content"])
            ]
            item["content"] = list(itertools.chain.from_iterable(parts))


@dataclass
class _Resolved:
    request: DocumentResponsesRequest
    task: str | None
    media: list[PlacedPart]


@router.post(
    PATH,
    dependencies=_VLLM_ROUTE.dependencies,
    response_model=None,  # responses come ready-made
    openapi_extra=openapi.body_of(ResponsesRequest),
)
async def create_response(
    body: Annotated[dict[str, Any], Depends(json_body)], raw_request: Request
) -> Response | None:
    """Responses as OpenAI and vLLM define them, with tasks and documents."""
    service = raw_request.app.state.phi_vision
    applied = responses.apply(body, service.served_names, max_model_len=service.max_model_len)
    request_counts.note(task=applied.task)
    request = validated(DocumentResponsesRequest, applied.body)
    if applied.task and presets.PRESETS[applied.task].ends_loops:
        request.end_loops()
    resolved = _Resolved(request, applied.task, list(applied.media))
    del applied, request
    # Or the files in the body would be in memory until the answer has ended: see the chat route.
    raw_request.scope.pop(PARSED_BODY).clear()
    await raw_request.receive()
    if resolved.media and not await _put_pages(resolved, raw_request):
        return None  # the client has gone

    response: Response | None = await vllm_responses.create_responses(resolved.request, raw_request)

    if response is not None and response.status_code == 200 and resolved.task:
        response.headers["x-phi-vision-task"] = resolved.task
        if (status := resolved.request.answer_status) is not None:
            response.headers["x-phi-vision-status"] = status
    return response


@with_cancellation
async def _put_pages(resolved: _Resolved, raw_request: Request) -> bool:
    """Open the documents, and put each page into its place."""
    documents: Documents = raw_request.app.state.phi_vision_documents
    parts = [place.media for place in resolved.media]
    opened = await documents.open(parts, owner_of(raw_request), fetch_first=False)
    resolved.request.put_pages(resolved.media, opened)
    resolved.media.clear()
    return True
