"""Tasks and crops on the chat route.

`POST /v1/chat/completions` takes the place of vLLM's route of that name. A request is resolved by
`tasks`, its pictures are noted with how they are to be seen, and vLLM's own route does the rest.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import BaseModel, PrivateAttr, ValidationError
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion import api_router as vllm_chat
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProbsContent,
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param
from vllm.entrypoints.serve.utils.api_utils import with_cancellation

from phi_vision.documents.answers import Answer, Status, status_of
from phi_vision.errors import RequestError
from phi_vision.model.crops import CropPolicy
from phi_vision.model.geometry import CROP_PX, num_image_tokens
from phi_vision.serving import openapi
from phi_vision.serving.documents import Documents
from phi_vision.serving.middleware.body_reader import PARSED_BODY
from phi_vision.serving.pictures import Picture
from phi_vision.serving.routes.files import owner_of
from phi_vision.serving.vllm_compat import loop_guard
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks import presets, requests
from phi_vision.tasks.media_parts import MediaPart
from phi_vision.tasks.router_fields import without_foreign_defaults

router = APIRouter()

_PATH = "/v1/chat/completions"
_VLLM_ROUTE = next(
    route for route in vllm_chat.router.routes if isinstance(route, APIRoute) and route.path == _PATH
)
_Model = TypeVar("_Model", bound=BaseModel)

# What a chat request may hold: vLLM's fields, and OpenAI's that vLLM does not know and ignores. Not
# how media are decoded.
_KNOWN_FIELDS = (
    frozenset(ChatCompletionRequest.model_fields)
    | frozenset(CompletionCreateParamsBase.__annotations__)
    | {"task"}
) - {"media_io_kwargs"}


class PictureChatRequest(loop_guard.EndsLoops, ChatCompletionRequest):
    """A chat request that carries its pictures, and sees its answer."""

    _pictures: list[Picture] = PrivateAttr(default_factory=list)
    _statuses: list[Status] = PrivateAttr(default_factory=list)

    def see_answer(self, answer: ChatCompletionResponse) -> None:
        """Note how each choice ended, and leave a loop's log-probabilities out as its text is."""
        for choice in answer.choices:
            end = choice.finish_reason or "stop"
            self._statuses.append(status_of(Answer("", finish_reason=end)))
            if end == "repetition" and choice.logprobs and choice.logprobs.content:
                choice.logprobs.content = _tokens_of(choice.message.content or "", choice.logprobs.content)

    def put_pictures(self, pictures: Sequence[Picture | Sequence[Picture]]) -> None:
        """Have vLLM's parser find `pictures`, in order, in place of their URLs.

        Args:
            pictures: for each URL a picture, or the pages of a document.
        """
        of_each_url = [[each] if isinstance(each, Picture) else each for each in pictures]
        self._pictures = list(itertools.chain.from_iterable(of_each_url))
        waiting = iter(of_each_url)
        self.messages = [_with_pictures(message, waiting) for message in self.messages]  # type: ignore[has-type]

    @property
    def statuses(self) -> Sequence[Status]:
        """How each choice of the answer ended; none of a stream."""
        return self._statuses

    def headers(self) -> dict[str, str]:
        """What the pictures cost, once they are drawn: one number each, in the order of the prompt."""
        if not self._pictures:
            return {}
        return {
            "x-phi-vision-num-crops": ",".join(str(picture.num_crops) for picture in self._pictures),
            "x-phi-vision-image-tokens": ",".join(
                str(picture.num_image_tokens) for picture in self._pictures
            ),
        }


class ChatService:
    """What the chat route needs to know of the server."""

    def __init__(self, model_config: ModelConfig, args: Namespace) -> None:
        self.served_names = frozenset(args.served_model_name)
        self.crop_policy = CropPolicy(**model_config.multimodal_config.mm_processor_kwargs)
        self.max_model_len: int = model_config.max_model_len

    @property
    def tokens_per_request(self) -> int:
        """What an ordinary request takes of the KV cache: one picture and an answer."""
        picture = num_image_tokens(CROP_PX, CROP_PX, self.crop_policy.single)
        return picture + presets.TYPICAL_ANSWER_TOKENS


async def _json_body(raw_request: Request) -> dict[str, Any]:
    """The request's JSON object, as the limits have read it."""
    body: dict[str, Any] | None = raw_request.scope.get(PARSED_BODY)
    if body is None:
        raise RequestError("the body must be a JSON object")
    body = without_foreign_defaults(body)
    if unknown := sorted(set(body) - _KNOWN_FIELDS):
        raise RequestError(f"unknown field {unknown[0]!r}", param=unknown[0])
    return body


@router.get("/v1/tasks")
async def show_tasks(raw_request: Request) -> JSONResponse:
    """The presets: what each task adds to a request, and the names it is served under."""
    return JSONResponse(presets.describe(raw_request.app.state.args.served_model_name))


@router.post(
    _PATH,
    dependencies=_VLLM_ROUTE.dependencies,
    response_model=None,  # responses come ready-made
    openapi_extra=openapi.body_of(ChatCompletionRequest),
)
async def create_chat_completion(
    body: Annotated[dict[str, Any], Depends(_json_body)], raw_request: Request
) -> Response | None:
    """Chat completions as OpenAI and vLLM define them, with tasks and crops for pictures."""
    resolved = _resolve(body, raw_request.app.state.phi_vision)
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


def validated(model: type[_Model], body: Mapping[str, Any]) -> _Model:
    """The body as vLLM's model of it.

    Raises:
        RequestError: naming the first field at fault.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = clean_loc_for_param(first["loc"]) if first["loc"] else None
        cause = first.get("ctx", {}).get("error")
        param = getattr(cause, "parameter", None) or param
        raise RequestError(f"{param or 'the request'}: {first['msg']}", param=param) from error


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


def _tokens_of(
    text: str, tokens: Sequence[ChatCompletionLogProbsContent]
) -> list[ChatCompletionLogProbsContent]:
    """The tokens that `text` is made of, the first ones. Decoded alone, some lose a space."""
    missing = _num_visible(text)
    kept = []
    for token in tokens:
        if missing <= 0:
            break
        kept.append(token)
        missing -= _num_visible(bytes(token.bytes or ()).decode(errors="replace"))
    return kept


def _num_visible(text: str) -> int:
    return sum(map(len, text.split()))


def _with_pictures(message: Any, waiting: Iterator[Sequence[Picture]]) -> Any:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts: list[Any] = []
    for part in content:
        if part["type"] == "image_url":
            parts += ({"type": "image_pil", "image_pil": picture} for picture in next(waiting))
        else:
            parts.append(part)
    return {**message, "content": parts}
