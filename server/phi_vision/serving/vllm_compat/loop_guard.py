"""End an answer that runs in a loop, where its task asks for that.

Symptom: an answer that repeats itself for ever goes on to its limit of tokens; with vLLM's
`repetition_detection` it ends, and so does a table of contents or a ruled table.
Cause: vLLM counts repeats of tokens, whatever they say and however long they are.
Can go: when vLLM takes a check of the text from a plugin, at the place where it looks for stop strings.

The guard stands where the text is, in the API process: `OutputProcessor.process_outputs` is wrapped. When
`documents.loops` finds a loop in the text of a marked request, the next output from the engine is made its
last: vLLM answers, counts and aborts as for a request that has ended. Unless it is streamed, the answer keeps
the loop's pattern once, while its tokens and so its usage stay what was generated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, PrivateAttr
from vllm.engine.protocol import EngineClient
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer
from vllm.v1.engine.output_processor import OutputProcessor, OutputProcessorOutput, RequestState

from phi_vision.documents.loops import LoopDetector, find_loop

_MARK = "phi_vision_ends_loops"  # in `SamplingParams.extra_args`, which go where the parameters go
_STOP_REASON = "repetition_detected"  # what vLLM's own detection says


class EndsLoops(BaseModel):
    """What a request of vLLM's derives from too, so that its task can have the guard end its loops."""

    _ends_loops: bool = PrivateAttr(default=False)

    def end_loops(self) -> None:
        """Have an answer that repeats itself for ever end, unless `repetition_detection` is set."""
        self._ends_loops = True

    def to_sampling_params(self, *arguments: Any, **options: Any) -> SamplingParams:
        """As vLLM makes them, with the guard's mark where the client has not chosen vLLM's own detection."""
        params: SamplingParams = super().to_sampling_params(*arguments, **options)  # type: ignore[misc]
        if self._ends_loops and params.repetition_detection is None:
            params.extra_args = {**(params.extra_args or {}), _MARK: True}
        return params


def install(engine_client: EngineClient) -> None:
    """Guard the marked requests of this engine."""
    _Guard(engine_client.output_processor)


class _Guard:
    """Watches the answers to marked requests; takes the place of two methods of `processor`."""

    def __init__(self, processor: OutputProcessor) -> None:
        self._states = processor.request_states
        self._watched: WeakKeyDictionary[RequestState, LoopDetector] = WeakKeyDictionary()
        self._add_request, self._process_outputs = processor.add_request, processor.process_outputs
        processor.add_request = self.add_request
        processor.process_outputs = self.process_outputs

    def add_request(self, request: EngineCoreRequest, *arguments: Any, **options: Any) -> None:
        """With several answers to a request, this is called for each."""
        self._add_request(request, *arguments, **options)
        params = request.sampling_params
        if params is not None and params.extra_args and params.extra_args.get(_MARK) is True:
            state = self._states[request.request_id]
            if isinstance(state.detokenizer, BaseIncrementalDetokenizer):
                self._watched[state] = LoopDetector()

    def process_outputs(
        self, engine_core_outputs: list[EngineCoreOutput], *arguments: Any, **options: Any
    ) -> OutputProcessorOutput:
        """Of outputs that end an answer here, the engine does not know yet."""
        at_work = [output for output in engine_core_outputs if not output.finished]
        for output in engine_core_outputs:
            self._end_if_looping(output)
        ended = [output.request_id for output in at_work if output.finished]
        processed = self._process_outputs(engine_core_outputs, *arguments, **options)
        processed.reqs_to_abort += ended
        return processed

    def _end_if_looping(self, output: EngineCoreOutput) -> None:
        """Make an output the last one of its answer if the text before it ends in a loop."""
        state = self._states.get(output.request_id)
        detector = None if state is None else self._watched.get(state)
        if detector is None or output.finish_reason not in (None, FinishReason.LENGTH):
            return
        written = state.detokenizer
        looping = detector.feed(written.output_text[detector.num_fed :])
        if not looping or written.num_output_tokens() < written.min_tokens:
            return
        output.finish_reason, output.stop_reason = FinishReason.REPETITION, _STOP_REASON
        # What it brings is more of the loop.
        output.new_token_ids = []
        output.new_logprobs = output.new_sampling_mask = output.routed_experts = None
        if state.output_kind != RequestOutputKind.DELTA:
            certain = written.output_text[: detector.num_chars]
            written.output_text = certain[: find_loop(certain)]


class _Token(Protocol):
    """A token in the log-probabilities of an answer."""

    @property
    def bytes(self) -> Iterable[int] | None:
        """Of its text."""


_AnyToken = TypeVar("_AnyToken", bound=_Token)


def tokens_left(text: str, tokens: Iterable[_AnyToken]) -> list[_AnyToken]:
    """The tokens that `text` is made of, which is left of an answer: the first ones.

    Decoded alone, some of them lose a space.
    """
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
