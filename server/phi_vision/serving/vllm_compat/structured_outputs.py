"""Bound and try every structured-output spec before vLLM or its engine compiles it.

Symptom: a client's regex, grammar or schema stops the event loop for seconds, takes gigabytes or ends the
server; one that only the engine refuses is answered with 500.
Cause: vLLM compiles specs without limits, in the API process on the event loop and again in the engine.
Can go: when vLLM compiles specs outside the API process, with limits.

`AsyncLLM.add_request`, which all routes and beam search call, is wrapped: a spec passes `grammars.specs` and
a trial (`grammars.trials`) or the request is refused. What compiles in the API process is replaced:
validation of sampling parameters accepts a `TriedSpec` and nothing else, so no request can go round the
wrapper.

There is one backend, xgrammar: it alone knows all kinds of specs (schema, regex, choice, EBNF, Lark,
structural tags), and it compiles without holding the GIL. vLLM's 'auto' tries a second and a third backend
on what the first refuses, each with its own cost, while its engine keeps the backend of the first request
and compiles all others with that. What xgrammar cannot do is a 400.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar

from phi_vision.plugin_names import GRAMMAR_BACKEND
from phi_vision.serving.grammars import specs
from phi_vision.serving.grammars.bounds import SpecRefused
from phi_vision.serving.grammars.request_state import GrammarState, grammar_state
from phi_vision.serving.grammars.trials import Compiler, GrammarTrials, TrialFailed


class TriedSpec(StructuredOutputsParams):
    """A spec that may go to the engine."""


class SpecTrials:
    """Bounds and tries specs, and checks answers, for one engine."""

    def __init__(self, trials: GrammarTrials) -> None:
        self._trials = trials

    async def tried(self, spec: StructuredOutputsParams) -> TriedSpec:
        """The spec as the engine is to get it.

        Raises:
            SpecRefused: it is out of bounds, or its trial failed.
            TrialFailed: it could not be tried.
        """
        specs.check(spec)
        field, syntax, text = specs.as_compiled(spec)
        if (reason := await self._trials.verdict(syntax, text)) is not None:
            raise SpecRefused(reason)
        passed = TriedSpec(**{field: True if field == "json_object" else text})
        passed._backend = GRAMMAR_BACKEND
        return passed

    async def try_schema(self, schema: dict[str, Any]) -> None:
        """Try a JSON schema before it is needed; raises as `tried`."""
        await self.tried(StructuredOutputsParams(json=schema))

    async def mismatch(self, schema: dict[str, Any], text: str) -> str | None:
        """Where JSON text does not match a schema; None if it does.

        A grammar does not hold an answer to all that a schema can say.

        Raises:
            TrialFailed: it could not be checked.
        """
        return await self._trials.mismatch(schema, text)


def install(engine_client: EngineClient) -> SpecTrials:
    """Bound and try each spec on its way to this engine.

    Returns:
        What tries them.

    Raises:
        RuntimeError: the engine compiles with another backend.
    """
    backend = engine_client.vllm_config.structured_outputs_config.backend
    if backend != GRAMMAR_BACKEND:
        raise RuntimeError(f"structured outputs can only be tried with {GRAMMAR_BACKEND}, not {backend}")
    trials = SpecTrials(GrammarTrials(lambda: _compiler_of(engine_client)))
    _wrap_add_request(engine_client, trials)
    SamplingParams._validate_structured_outputs = _require_trial
    backend_xgrammar.validate_xgrammar_grammar = _check_bounds
    for request in (ChatCompletionRequest, CompletionRequest):
        request.to_beam_search_params = _refuse_spec(request.to_beam_search_params)
    return trials


def _compiler_of(engine_client: EngineClient) -> Compiler:
    """How the engine compiles: its tokenizer and its treatment of whitespace."""
    import xgrammar

    config = engine_client.vllm_config
    info = xgrammar.TokenizerInfo.from_huggingface(
        engine_client.renderer.get_tokenizer(), vocab_size=config.model_config.get_vocab_size()
    )
    return Compiler(info.serialize_json(), not config.structured_outputs_config.disable_any_whitespace)


def _wrap_add_request(engine_client: EngineClient, trials: SpecTrials) -> None:
    add_request = engine_client.add_request

    async def add_tried_request(
        request_id: str, prompt: Any, params: Any, *arguments: Any, **options: Any
    ) -> Any:
        state = grammar_state.get() or GrammarState()
        if isinstance(params, SamplingParams) and params.structured_outputs is not None:
            try:
                spec = await trials.tried(params.structured_outputs)
            except (SpecRefused, TrialFailed) as error:
                state.error, state.kind = error, specs.kind_of(params.structured_outputs)
                field = f"structured_outputs.{state.kind}"
                raise VLLMValidationError(str(error), parameter=field) from error
            params = copy.copy(params)
            params.structured_outputs = spec
        state.reached_engine = True
        return await add_request(request_id, prompt, params, *arguments, **options)

    engine_client.add_request = add_tried_request


def _require_trial(params: SamplingParams, *_: Any) -> None:
    """Replaces `SamplingParams._validate_structured_outputs`, which compiles."""
    if params.structured_outputs is not None and not isinstance(params.structured_outputs, TriedSpec):
        raise VLLMValidationError("structured outputs are not supported on this route")


def _check_bounds(params: SamplingParams) -> None:
    """Replaces `validate_xgrammar_grammar`, which compiles while a body is validated.

    vLLM calls it for structural tags, and for constraints that it combines with tools (to which it would
    convert a Lark grammar at once, so those are refused). The trial comes later.
    """
    spec = params.structured_outputs
    if spec is None:
        return
    try:
        specs.check(spec)
    except SpecRefused as error:
        raise VLLMValidationError(str(error)) from error
    if specs.is_lark(spec):
        raise VLLMValidationError("a Lark grammar cannot be combined with tools")


def _refuse_spec(to_beam_search_params: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `to_beam_search_params` of a request class, which silently drops a spec."""

    def converted(request: Any, *arguments: Any, **options: Any) -> Any:
        if request.extract_structured_outputs() is not None:
            raise VLLMValidationError(
                "structured outputs cannot be combined with beam search", parameter="use_beam_search"
            )
        return to_beam_search_params(request, *arguments, **options)

    return converted
