"""Structured outputs: every spec is bounded and tried before vLLM or its engine sees it.

Symptom: a regex, grammar or schema of a client stops the event loop for seconds, takes gigabytes or ends
the server; one that only the engine refuses is a 500.
Cause: vLLM compiles specs in the API process, on the event loop, and again in the engine, without bounds.
So `AsyncLLM.add_request`, where all routes and beam search meet, is wrapped: a spec passes `grammar_bounds`
and a trial (`trials`) or is refused. What compiles in the API process is replaced: verification of
sampling parameters takes what has passed and nothing else, so a request that comes another way is refused.
Can go: when vLLM compiles specs outside the API process, with limits.

One backend, xgrammar. It alone knows all kinds of specs (schema, regex, choice, EBNF, Lark, structural
tags), and it compiles without the interpreter's lock. vLLM's 'auto' tries a second and a third one on what
the first refuses, each with its own cost to bound, while its engine keeps the backend of the first request
and compiles all others with that. What xgrammar cannot do is a 400.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from phi_vision.errors import RequestError
from phi_vision.plugin_names import GRAMMAR_BACKEND
from phi_vision.serving.grammars import bounds
from phi_vision.serving.grammars.bounds import Kind, SpecRefused
from phi_vision.serving.grammars.trials import Compiler, GrammarTrials, Syntax, TrialFailed
from phi_vision.serving.http import error_response

_KINDS: tuple[Kind, ...] = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# Options of vLLM's other backends, or for the server as a whole, that xgrammar ignores in a request.
_OF_NO_EFFECT = ("whitespace_pattern", "disable_any_whitespace", "disable_additional_properties")


class TriedSpec(StructuredOutputsParams):
    """A spec that may go to the engine."""


@dataclass
class _Note:
    """What became of the specs of the HTTP request at hand."""

    asked: bool = False  # a request has gone to the engine
    refused: SpecRefused | TrialFailed | None = None
    kind: Kind | None = None


_note: ContextVar[_Note | None] = ContextVar("phi_vision_grammars", default=None)


def guard(engine_client: EngineClient) -> None:
    """Have each spec bounded and tried on its way to the engine.

    Raises:
        RuntimeError: the engine compiles with another backend.
    """
    config = engine_client.vllm_config
    if config.structured_outputs_config.backend != GRAMMAR_BACKEND:
        raise RuntimeError(f"structured outputs are guarded for {GRAMMAR_BACKEND} alone")

    def compiler() -> Compiler:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            engine_client.renderer.get_tokenizer(), vocab_size=config.model_config.get_vocab_size()
        )
        whitespace = not config.structured_outputs_config.disable_any_whitespace
        return Compiler(info.serialize_json(), whitespace)

    trials = GrammarTrials(compiler)
    add_request = engine_client.add_request

    async def add_tried_request(
        request_id: str, prompt: Any, params: Any, *arguments: Any, **options: Any
    ) -> Any:
        note = _note.get() or _Note()
        if isinstance(params, SamplingParams) and params.structured_outputs is not None:
            try:
                spec = await tried(params.structured_outputs, trials)
            except (SpecRefused, TrialFailed) as error:
                kind = kind_of(params.structured_outputs)
                note.refused, note.kind = error, kind
                raise VLLMValidationError(str(error), parameter=f"structured_outputs.{kind}") from error
            params = copy.copy(params)
            params.structured_outputs = spec
        note.asked = True
        return await add_request(request_id, prompt, params, *arguments, **options)

    engine_client.add_request = add_tried_request
    SamplingParams._validate_structured_outputs = _require_trial
    backend_xgrammar.validate_xgrammar_grammar = _check_bounds
    for request in (ChatCompletionRequest, CompletionRequest):
        request.to_beam_search_params = _without_spec(request.to_beam_search_params)


async def tried(spec: StructuredOutputsParams, trials: GrammarTrials) -> TriedSpec:
    """The spec as the engine is to get it.

    Raises:
        SpecRefused: it is out of bounds, or its trial failed.
        TrialFailed: there is no verdict on it.
    """
    kind = kind_of(spec)
    check(kind, spec)
    field, syntax, text = _as_compiled(kind, getattr(spec, kind))
    if (reason := await trials.verdict(syntax, text)) is not None:
        raise SpecRefused(reason)
    passed = TriedSpec(**{field: True if field == "json_object" else text})
    passed._backend = GRAMMAR_BACKEND
    return passed


def kind_of(spec: StructuredOutputsParams) -> Kind:
    """The one constraint that is set; vLLM's class sees to it that there is one."""
    return next(kind for kind in _KINDS if getattr(spec, kind) is not None)


def check(kind: Kind, spec: StructuredOutputsParams) -> None:
    """Bound what can be bounded without compiling it.

    Raises:
        SpecRefused: it is out of bounds, empty, or asks for what has no effect.
    """
    for option in _OF_NO_EFFECT:
        if getattr(spec, option):
            raise SpecRefused(f"it has no effect in a request: {GRAMMAR_BACKEND} ignores it", option=option)
    value = getattr(spec, kind)
    if kind == "json_object" and value is not True:
        raise SpecRefused("it must be true, or left out")
    if kind != "regex" and value in ("", []):
        raise SpecRefused("it is empty")
    bounds.check(kind, value)
    if kind == "json":
        schema = json.loads(value) if isinstance(value, str) else value
        if backend_xgrammar.has_xgrammar_unsupported_json_features(schema):
            raise SpecRefused("the schema has keywords, or combines some, that xgrammar does not support")


def _as_compiled(kind: Kind, value: Any) -> tuple[Kind, Syntax, str]:
    """The constraint that goes to the engine, and the text that is compiled there for it."""
    match kind:
        case "json":
            return kind, "json", value if isinstance(value, str) else json.dumps(value)
        case "json_object":
            return kind, "json", '{"type": "object"}'
        case "choice":
            return "grammar", "ebnf", choice_as_grammar(value)
        case "grammar":
            return kind, "lark" if grammar_is_likely_lark(value) else "ebnf", value
        case "regex" | "structural_tag":
            return kind, kind, value


def _require_trial(params: SamplingParams, *_: Any) -> None:
    """In place of `SamplingParams._validate_structured_outputs`, which compiles."""
    if params.structured_outputs is not None and not isinstance(params.structured_outputs, TriedSpec):
        raise VLLMValidationError("this way to the engine takes no structured outputs")


def _check_bounds(params: SamplingParams) -> None:
    """In place of `validate_xgrammar_grammar`, which compiles while a body is validated.

    vLLM asks it of structural tags, and of constraints that it joins with tools (to which it would convert
    a Lark grammar at once, so that is told not to be supported). The trial is still to come.
    """
    spec = params.structured_outputs
    if spec is None:
        return
    try:
        check(kind := kind_of(spec), spec)
    except SpecRefused as error:
        raise VLLMValidationError(str(error)) from error
    if kind == "grammar" and grammar_is_likely_lark(spec.grammar):
        raise VLLMValidationError("a Lark grammar is not joined with tools")


def _without_spec(to_beam_search_params: Callable[..., Any]) -> Callable[..., Any]:
    """`to_beam_search_params` of a request class; vLLM's drops a spec without a word."""

    def converted(request: Any, *arguments: Any, **options: Any) -> Any:
        if request.extract_structured_outputs() is not None:
            raise VLLMValidationError(
                "beam search does not heed structured outputs", parameter="use_beam_search"
            )
        return to_beam_search_params(request, *arguments, **options)

    return converted


class GrammarRefusals:
    """ASGI middleware: whatever a route makes of a refused spec, the client gets a 400 with its field.

    The head of a stream is kept back until the engine is asked, so that there is still a status to choose.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        note = _Note()
        _note.set(note)
        body: list[bytes] = []
        waiting: list[Message] = []
        begun = False

        async def receive_and_keep() -> Message:
            message = await receive()
            body.append(message.get("body", b""))
            return message

        async def send_when_tried(message: Message) -> None:
            nonlocal begun
            if note.refused is not None and not begun:
                return  # answered below
            waiting.append(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if begun or note.asked or ended:
                begun = True
                for kept in waiting:
                    await send(kept)
                waiting.clear()

        try:
            await self.app(scope, receive_and_keep, send_when_tried)
        except Exception:  # Starlette's, which takes the head for sent
            if note.refused is None or begun:
                raise
        if note.refused is not None and not begun:
            await error_response(_refusal(note.refused, note.kind, b"".join(body)))(scope, receive, send)


def _refusal(error: SpecRefused | TrialFailed, kind: Kind | None, body: bytes) -> RequestError:
    if isinstance(error, TrialFailed):
        return RequestError("structured outputs cannot be checked just now", status=503, retry_after_s=5)
    field = f"structured_outputs.{error.option}" if error.option else field_of(kind, json.loads(body))
    return RequestError(f"{field}: {error}", param=field)


def field_of(kind: Kind | None, body: Mapping[str, Any]) -> str:
    """The field of a request's body that a spec of this kind came from.

    Schemas and structural tags also come from tools that must be called, then from a response's format.
    """
    if kind in ("json", "json_object", "structural_tag"):
        if body.get("tools") and body.get("tool_choice", "auto") not in ("auto", "none", {"type": "auto"}):
            return "tools"
        for name, inner in (("response_format", None), ("text", "format"), ("output_config", "format")):
            value = body.get(name)
            if inner and isinstance(value, dict):
                value = value.get(inner)
            if isinstance(value, dict) and value.get("type") != "text":
                return f"{name}.{inner}" if inner else name
    outer = "sampling_params." if "sampling_params" in body else ""
    return f"{outer}structured_outputs.{kind}"
