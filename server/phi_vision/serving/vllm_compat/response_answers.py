"""Let a request of the Responses API see its answer, and how it ended.

Symptom: a response that ran in a loop and was cut says `completed`, and its log-probabilities are also of
what was cut off.
Cause: vLLM calls `completed` what did not end at its limit of tokens, and says nowhere how it ended.
Can go: when vLLM's response has a status for each end of an answer, and its route hands it out as an object.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from vllm.entrypoints.openai.responses.context import SimpleContext
from vllm.entrypoints.openai.responses.protocol import ResponsesResponse
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses


@runtime_checkable
class SeesResponse(Protocol):
    """A request that is shown its response."""

    def see_response(self, response: ResponsesResponse, finish_reason: str | None) -> None:
        """Called once, before the response is sent or the last event of a stream. May change it.

        Args:
            response: what is sent, and kept where vLLM stores responses.
            finish_reason: vLLM's: stop, length, repetition, abort.
        """


def install(serving_responses: OpenAIServingResponses) -> None:
    """Wrap `responses_full_generator` of this serving class: streams end with it too."""
    make = serving_responses.responses_full_generator

    async def make_and_show(
        request: Any,
        sampling_params: Any,
        result_generator: Any,
        context: Any,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        response = await make(request, sampling_params, result_generator, context, *arguments, **options)
        if isinstance(response, ResponsesResponse) and isinstance(request, SeesResponse):
            request.see_response(response, _finish_reason(context))
        return response

    serving_responses.responses_full_generator = make_and_show


def _finish_reason(context: Any) -> str | None:
    if not isinstance(context, SimpleContext):
        return context.finish_reason
    last = context.last_output
    return last.outputs[0].finish_reason if last is not None and last.outputs else None
