"""Tasks and crops on the chat route.

`POST /v1/chat/completions` takes the place of vLLM's route of that name. A request is resolved by
`tasks`, its pictures are fetched, their crops chosen, and vLLM's own chat handler does the rest.
"""

from __future__ import annotations

import asyncio
import copy
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated, Any

import vllm.envs as envs
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param
from vllm.entrypoints.serve.utils.api_utils import load_aware_call, validate_json_request, with_cancellation
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive
from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from phi_vision.errors import RequestError
from phi_vision.model.crops import CropPolicy
from phi_vision.model.geometry import CROP_PX, num_image_tokens
from phi_vision.serving.middleware.body_reader import PARSED_BODY
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks import presets, requests
from phi_vision.tasks.router_fields import without_foreign_defaults

router = APIRouter()

_pictures: ContextVar[Sequence[Any]] = ContextVar("pictures", default=())  # of the request at hand

_SCHEMA_REF = "#/components/schemas/{model}"

# What a chat request may hold: vLLM's fields, and OpenAI's that vLLM does not know and ignores. Not
# how media are decoded: the copy of vLLM's handler below would trust that too.
_KNOWN_FIELDS = (
    frozenset(ChatCompletionRequest.model_fields)
    | frozenset(CompletionCreateParamsBase.__annotations__)
    | {"task"}
) - {"media_io_kwargs"}


class ChatService:
    """vLLM's chat handler for requests with pictures, and the rules for their crops."""

    def __init__(self, handler: OpenAIServingChat, args: Namespace) -> None:
        model_config = handler.model_config
        self.served_names = frozenset(args.served_model_name)
        self.max_images = int(model_config.multimodal_config.get_limit_per_prompt("image"))
        self.crop_policy = CropPolicy(**model_config.multimodal_config.mm_processor_kwargs)
        self._connector: MediaConnector = MEDIA_CONNECTOR_REGISTRY.load(
            envs.VLLM_MEDIA_CONNECTOR,
            media_io_kwargs=model_config.multimodal_config.media_io_kwargs,
            allowed_local_media_path=model_config.allowed_local_media_path,
            allowed_media_domains=model_config.allowed_media_domains,
        )
        # `num_crops` travels as a multimodal kwarg. vLLM's switch for those opens every route to any
        # kwarg; a copy of the handler that only this route uses keeps all others shut.
        trusted = copy.copy(handler)
        trusted.online_renderer = copy.copy(handler.online_renderer)
        trusted.online_renderer.trust_request_mm_kwargs = True
        trusted.online_renderer.render_chat = _with_pictures(trusted.online_renderer.render_chat)
        self.handler: OpenAIServingChat = trusted
        self.max_model_len: int = model_config.max_model_len

    @property
    def tokens_per_request(self) -> int:
        """What an ordinary request takes of the KV cache: one picture and an answer."""
        picture = num_image_tokens(CROP_PX, CROP_PX, self.crop_policy.single)
        return picture + presets.TYPICAL_ANSWER_TOKENS

    async def fetch(self, pictures: Sequence[requests.Picture]) -> list[Any]:
        """Fetch and decode the pictures, all at once; PIL images in vLLM's wrapper.

        Raises:
            RequestError: the first picture that cannot be had or read, by its field.
        """
        if len(pictures) > self.max_images:
            raise RequestError(
                f"{len(pictures)} pictures; at most {self.max_images} in one request", param="messages"
            )
        fetching = (self._connector.fetch_image_async(picture.url) for picture in pictures)
        images = await asyncio.gather(*fetching, return_exceptions=True)
        for picture, image in zip(pictures, images, strict=True):
            if isinstance(image, RequestError):
                raise RequestError(str(image), param=picture.param, status=image.status) from image
            if isinstance(image, BaseException):
                raise image
        return images

    def choose_crops(
        self, kwargs: Any, pictures: Sequence[requests.Picture], sizes: Sequence[tuple[int, int]]
    ) -> list[int]:
        """`num_crops` of each picture: the client's own number, else by detail and policy."""
        if kwargs is None:
            return self.crop_policy.num_crops(sizes, [picture.detail for picture in pictures])
        if not isinstance(kwargs, dict) or set(kwargs) - {"num_crops"}:
            raise RequestError("only 'num_crops' is accepted here", param="mm_processor_kwargs")
        asked = kwargs.get("num_crops", self.crop_policy.single)
        if type(asked) is not int or not 1 <= asked <= PHI_3_5_VISION.max_num_crops:
            raise RequestError(
                f"num_crops must be a whole number from 1 to {PHI_3_5_VISION.max_num_crops}, not {asked!r}",
                param="mm_processor_kwargs.num_crops",
            )
        return [asked] * len(pictures)


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
    "/v1/chat/completions",
    dependencies=[Depends(validate_json_request)],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": _SCHEMA_REF.format(model="ChatCompletionRequest")}}
            },
        }
    },
)
@with_cancellation
@load_aware_call
async def create_chat_completion(
    body: Annotated[dict[str, Any], Depends(_json_body)], raw_request: Request
) -> Response:
    """Chat completions as OpenAI and vLLM define them, with tasks and crops for pictures."""
    service: ChatService = raw_request.app.state.phi_vision
    applied = requests.apply(body, service.served_names, max_model_len=service.max_model_len)
    request = _validated(applied.body)
    images = await service.fetch(applied.pictures)
    sizes = [(image.width, image.height) for image in images]
    num_crops = service.choose_crops(request.mm_processor_kwargs, applied.pictures, sizes)
    request.mm_processor_kwargs = {"num_crops": num_crops} if images else None
    _pictures.set(images)
    del images  # decoded pictures are large, and only needed until they are rendered

    answer = await service.handler.create_chat_completion(request, raw_request)

    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    tokens = [num_image_tokens(*size, n) for size, n in zip(sizes, num_crops, strict=True)]
    headers = _headers(applied.task, num_crops, tokens)
    if isinstance(answer, ChatCompletionResponse):
        return JSONResponse(answer.model_dump(), headers=headers)
    interval_s = float(raw_request.app.state.args.sse_keep_alive_interval)
    return StreamingResponse(
        with_sse_keep_alive(answer, interval_s), media_type="text/event-stream", headers=headers
    )


def describe_request(app: FastAPI) -> None:
    """Define the body of our route in /openapi.json: FastAPI does not know a body that a dependency reads."""
    make_document = app.openapi

    def with_request() -> dict[str, Any]:
        document = make_document()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        request = ChatCompletionRequest.model_json_schema(ref_template=_SCHEMA_REF)
        for name, schema in request.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
        request["properties"]["task"] = {"type": "string", "enum": list(presets.PRESETS)}
        schemas["ChatCompletionRequest"] = request
        return document

    app.openapi = with_request  # type: ignore[method-assign]  # as FastAPI's docs have it


def _validated(body: Mapping[str, Any]) -> ChatCompletionRequest:
    try:
        return ChatCompletionRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = clean_loc_for_param(first["loc"]) if first["loc"] else None
        cause = first.get("ctx", {}).get("error")
        param = getattr(cause, "parameter", None) or param
        raise RequestError(f"{param or 'the request'}: {first['msg']}", param=param) from error


def _with_pictures(render_chat: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Have vLLM render the pictures fetched here, in order, in place of their URLs.

    They stand in the request only meanwhile: vLLM logs it before and keeps it until it is answered.
    """

    async def render(request: ChatCompletionRequest, **options: Any) -> Any:
        as_sent, waiting = request.messages, iter(_pictures.get())
        request.messages = [_with_images(message, waiting) for message in as_sent]
        _pictures.set(())
        try:
            return await render_chat(request, **options)
        finally:
            request.messages = as_sent

    return render


def _with_images(message: Any, waiting: Iterator[Any]) -> Any:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [
        {"type": "image_pil", "image_pil": next(waiting)} if part["type"] == "image_url" else part
        for part in content
    ]
    return {**message, "content": parts}


def _headers(task: str | None, num_crops: Sequence[int], tokens: Sequence[int]) -> dict[str, str]:
    """What was used: one number a picture, in the order of the prompt."""
    headers = {"x-phi-vision-task": task} if task else {}
    if num_crops:
        headers["x-phi-vision-num-crops"] = ",".join(map(str, num_crops))
        headers["x-phi-vision-image-tokens"] = ",".join(map(str, tokens))
    return headers
