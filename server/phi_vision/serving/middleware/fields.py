"""Refuses fields that a route of vLLM's would ignore or fail on, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from vllm.config import VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from phi_vision.errors import RequestError
from phi_vision.tasks import presets

CHAT = "/v1/chat/completions"
OCR = "/v1/ocr"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
_SCALE = "/scale_elastic_ep"  # fails with a 500 where it is not set up
_INVOCATIONS = "/invocations"  # takes a chat or a completion without declaring so

# They get the request that a client is about to make; sampling fields do not matter there.
_COUNTING = ("/tokenize", f"{MESSAGES}/count_tokens")

# Names that vLLM itself uses among the extra arguments, and reads without a check of their type.
_RESERVED_XARGS = ("kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode")


class FieldRules:
    """Which fields each route takes; one object for all requests."""

    def __init__(self, app: FastAPI, config: VllmConfig, served_names: Collection[str]) -> None:
        self._known = {route: _fields(models) for route, models in _models(app).items()}
        self._known[RESPONSES] = _fields([ResponsesRequest]) | {"task"}  # a route of ours reads its body
        self._known[_INVOCATIONS] = _fields([ChatCompletionRequest, CompletionRequest])
        for path in _COUNTING:
            self._known[path] |= frozenset(ChatCompletionRequest.model_fields) - {"mm_processor_kwargs"}
        self._task_names = frozenset(filter(presets.task_of, served_names))
        self._transfers = {
            "kv_transfer_params": config.kv_transfer_config is not None,
            "ec_transfer_params": config.ec_transfer_config is not None,
        }
        self._scales = config.parallel_config.enable_elastic_ep

    def check(self, path: str, body: Mapping[str, Any]) -> None:
        """Check the body of a request to the route at this path.

        Raises:
            RequestError: naming the field at fault.
        """
        if path == _SCALE and not self._scales:
            raise RequestError("this server does not scale: it was started without --enable-elastic-ep")
        self._check_transfers(body)
        _check_grammar(body)
        if path not in (CHAT, OCR):  # which check all of their fields
            self._check_other_route(path, body)
        if path == RESPONSES:
            _check_items(body.get("input"))
        if path.startswith(MESSAGES):
            _check_blocks(body.get("messages"))

    def _check_other_route(self, path: str, body: Mapping[str, Any]) -> None:
        model = body.get("model")
        if isinstance(model, str) and model in self._task_names and path != RESPONSES:
            raise RequestError(f"the tasks of {model!r} are served by {CHAT} and {RESPONSES}", param="model")
        known = self._known.get(path)
        for name in body:
            foreign = name == "task" and path != RESPONSES
            only_there = foreign or (known is not None and name not in known)
            if only_there and _differs_from_default(name, body[name]):
                raise RequestError(f"{name!r} is a field of {CHAT}, not of {path}", param=name)
        for name in ("messages", "input"):
            if _is_container(body.get(name)):
                _check_details(body[name], name)

    def _check_transfers(self, body: Mapping[str, Any]) -> None:
        for name, configured in self._transfers.items():
            if body.get(name) and not configured:
                raise RequestError(f"{name} needs a server with a connector for them", param=name)
        extra = body.get("vllm_xargs")
        for name in _RESERVED_XARGS:
            if isinstance(extra, dict) and name in extra:
                raise RequestError(f"vllm_xargs cannot hold {name!r}", param=f"vllm_xargs.{name}")


def _models(app: FastAPI) -> dict[str, list[type[BaseModel]]]:
    """The request models of each POST route."""
    found = {}
    for route in app.routes:
        if isinstance(route, APIRoute) and "POST" in (route.methods or ()) and route.body_field:
            annotation = route.body_field.field_info.annotation
            candidates = get_args(annotation) or (annotation,)
            models = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
            if models:
                found[route.path] = models
    return found


def _fields(models: list[type[BaseModel]]) -> frozenset[str]:
    names = {name for model in models for name in model.model_fields}
    aliases = {field.alias for model in models for field in model.model_fields.values() if field.alias}
    return frozenset(names | aliases)


def _differs_from_default(name: str, value: Any) -> bool:
    """Whether this field of the chat route has another value than its default, which clients may repeat."""
    if name == "task":
        return value is not None
    field = ChatCompletionRequest.model_fields.get(name)
    return field is not None and value is not None and value != field.get_default(call_default_factory=True)


def _check_details(value: Any, name: str) -> None:
    for where, detail in _details(value, name, name):
        if detail in ("low", "high"):
            raise RequestError(f"{CHAT} alone honours it; here the detail is 'auto'", param=where)


def _details(value: Any, where: str, key: str) -> Iterator[tuple[str, Any]]:
    """Path and `detail` of each picture in chat messages or items of `input`."""
    if isinstance(value, list):
        pairs = [(f"{where}[{i}]", key, inner) for i, inner in enumerate(value) if _is_container(inner)]
    else:
        if "detail" in value and (key == "image_url" or "image_url" in value):
            yield f"{where}.detail", value["detail"]
        pairs = [(f"{where}.{name}", name, inner) for name, inner in value.items() if _is_container(inner)]
    for inner_where, inner_key, inner in pairs:
        yield from _details(inner, inner_where, inner_key)


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list)


def _check_grammar(body: Mapping[str, Any]) -> None:
    """Refuse a grammar together with a list of allowed tokens.

    Sooner or later no token satisfies both, and vLLM answers with 500.
    """
    structured = body.get("structured_outputs")
    if structured is not None and not isinstance(structured, dict):
        raise RequestError("structured_outputs must be an object", param="structured_outputs")
    shape = body.get("response_format")
    shaped = shape is not None and not (isinstance(shape, dict) and shape.get("type") == "text")
    forced_tool = body.get("tool_choice") not in (None, "none", "auto")
    if (structured or shaped or forced_tool) and body.get("allowed_token_ids"):
        raise RequestError("it cannot be combined with structured outputs", param="allowed_token_ids")


def _check_items(items: Any) -> None:
    """Refuse the first item of an unknown kind.

    Symptom: a body of 2 MB took 17 GB of memory and ended the server. Cause: pydantic writes 233 errors for
    each item that matches no kind of `input`. Can go: when vLLM's model stops at the first bad item.
    """
    for i, item in enumerate(items if isinstance(items, list) else ()):
        try:
            ResponsesRequest.model_validate({"input": [item]})
        except ValidationError as error:
            raise RequestError(f"input[{i}] is of no known kind", param=f"input[{i}]") from error


def _check_blocks(messages: Any) -> None:
    """Refuse a document in Anthropic's messages.

    vLLM knows no such block; from the result of a tool it drops it without a word.
    """
    for m, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for where in _documents(content, f"messages[{m}].content"):
            raise RequestError(
                f"{where}: no documents are read here; {CHAT} and {RESPONSES} take them, and {OCR} answers "
                "with their text",
                param=where,
            )


def _documents(content: Any, where: str) -> Iterator[str]:
    """Path of each `document` block, those in the results of tools included."""
    for b, block in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(block, dict):
            continue
        if block.get("type") == "document":
            yield f"{where}[{b}]"
        yield from _documents(block.get("content"), f"{where}[{b}].content")
