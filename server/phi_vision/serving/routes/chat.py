"""Tasks and crops on the chat route.

`POST /v1/chat/completions` takes the place of vLLM's route of that name. A request is resolved by
`tasks`, its pictures are noted with how they are to be seen, and vLLM's own route does the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from vllm.entrypoints.openai.chat_completion import api_router as vllm_chat
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.utils.api_utils import with_cancellation

from phi_vision.errors import RequestError
from phi_vision.serving import openapi
from phi_vision.serving.chat_service import ChatService, PictureChatRequest
from phi_vision.serving.documents import Documents
from phi_vision.serving.middleware import request_counts
from phi_vision.serving.middleware.body_reader import PARSED_BODY
from phi_vision.serving.request_body import json_body, validated
from phi_vision.serving.routes.files import owner_of
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks import presets, requests
from phi_vision.tasks.media_parts import MediaPart
from phi_vision.tasks.router_fields import without_foreign_defaults

router = APIRouter()

_PATH = "/v1/chat/completions"
_VLLM_ROUTE = next(
    route for route in vllm_chat.router.routes if isinstance(route, APIRoute) and route.path == _PATH
)

# What a chat request may hold: vLLM's fields, and OpenAI's that vLLM does not know and ignores. Not
# how media are decoded.
_KNOWN_FIELDS = (
    frozenset(ChatCompletionRequest.model_fields)
    | frozenset(CompletionCreateParamsBase.__annotations__)
    | {"task"}
) - {"media_io_kwargs"}


async def _known_fields(raw_request: Request) -> dict[str, Any]:
    """The request's JSON object; no field of it would be ignored."""
    body = without_foreign_defaults(await json_body(raw_request))
    if unknown := sorted(set(body) - _KNOWN_FIELDS):
        raise RequestError(f"unknown field {unknown[0]!r}", param=unknown[0])
    return body


@router.get("/v1/tasks")
async def show_tasks(raw_request: Request) -> JSONResponse:
    """The presets: what each task adds to a request, and the names it is served under; and what is served."""
    state = raw_request.app.state
    service: ChatService = state.phi_vision
    tasks = presets.describe(state.args.served_model_name)
    return JSONResponse({**tasks, "server": service.describe(state.phi_vision_limits)})


@router.post(
    _PATH,
    dependencies=_VLLM_ROUTE.dependencies,
    response_model=None,  # responses come ready-made
    openapi_extra=openapi.body_of(ChatCompletionRequest),
)
async def create_chat_completion(
    body: Annotated[dict[str, Any], Depends(_known_fields)], raw_request: Request
) -> Response | None:
    """Chat completions as OpenAI and vLLM define them, with tasks and crops for pictures."""
    resolved = _resolve(body, raw_request.app.state.phi_vision)
    request_counts.note(task=resolved.task)
    # Or the files in the body would be in memory until the answer has ended: FastAPI holds both objects, and
    # what vLLM listens with, the last message that it received.
    raw_request.scope.pop(PARSED_BODY).clear()
    body.clear()
    await raw_request.receive()
    if resolved.media and not await _put_pictures(resolved, raw_request):
        return None  # the client has gone
    request, task = resolved.request, resolved.task

    response: Response | None = await vllm_chat.create_chat_completion(request, raw_request)

    if response is not None and response.status_code == 200:  # None: the client has gone
        response.headers.update(request.headers())
        if task:
            response.headers["x-phi-vision-task"] = task
            if request.statuses:
                response.headers["x-phi-vision-status"] = ",".join(request.statuses)
    return response


@dataclass
class _Resolved:
    """The request that vLLM's route takes, its task, and where its pictures are."""

    request: PictureChatRequest
    task: str | None
    media: list[MediaPart]
    num_crops: int | None  # set by the client


def _resolve(body: Mapping[str, Any], service: ChatService) -> _Resolved:
    applied = requests.apply(body, service.served_names, max_model_len=service.max_model_len)
    request = validated(PictureChatRequest, applied.body)
    num_crops = _explicit_num_crops(request.mm_processor_kwargs)
    request.mm_processor_kwargs = None  # vLLM takes none from strangers
    if applied.task and presets.PRESETS[applied.task].ends_loops:
        request.end_loops()
    return _Resolved(request, applied.task, list(applied.media), num_crops)


@with_cancellation
async def _put_pictures(resolved: _Resolved, raw_request: Request) -> bool:
    """Open the documents, and put each page and picture into its place."""
    documents: Documents = raw_request.app.state.phi_vision_documents
    pictures = await documents.open(resolved.media, owner_of(raw_request))
    resolved.media.clear()  # or data URLs would be in memory until the answer has ended
    for picture in itertools.chain.from_iterable(pictures):
        picture.explicit_num_crops = resolved.num_crops
    resolved.request.put_pictures(pictures)
    return True


def _explicit_num_crops(kwargs: Any) -> int | None:
    """`mm_processor_kwargs.num_crops`, the only kwarg that a request may have."""
    if kwargs is None:
        return None
    if not isinstance(kwargs, dict) or set(kwargs) - {"num_crops"}:
        raise RequestError("only 'num_crops' is accepted here", param="mm_processor_kwargs")
    if "num_crops" not in kwargs:
        return None
    num_crops, most = kwargs["num_crops"], PHI_3_5_VISION.max_num_crops
    if type(num_crops) is not int or not 1 <= num_crops <= most:
        raise RequestError(
            f"num_crops must be a whole number from 1 to {most}, not {num_crops!r}",
            param="mm_processor_kwargs.num_crops",
        )
    return num_crops
