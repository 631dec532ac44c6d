"""Record which LongRoPE factors each sequence of a request is computed with.

Symptom: a client cannot tell which factors its answer was computed with.
Cause: vLLM's outputs do not say; only the lengths of prompt and answer tell, and all routes (chat,
completions, responses, messages) have them in `EngineClient.generate` alone.
Can go: when vLLM chooses LongRoPE's factors by the length of a sequence and says which.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from phi_vision.model.rope_mode import RopeMode, mode_from, modes
from phi_vision.serving.middleware.rope_header import request_modes


def install(engine_client: EngineClient) -> None:
    """Wrap `generate` of this engine."""
    generate = engine_client.generate

    def generate_and_record(
        prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        outputs = generate(prompt, sampling_params, request_id, **options)
        recorded = request_modes.get()
        if recorded is None or not isinstance(prompt, dict) or "prompt_token_ids" not in prompt:
            return outputs
        prompt_tokens = len(prompt["prompt_token_ids"])
        recorded.append(mode_from(prompt_tokens))
        # The head of a stream has been sent by the time its answer outgrows the window.
        streams = sampling_params.output_kind == RequestOutputKind.DELTA
        return outputs if streams else _recording(outputs, prompt_tokens, recorded)

    engine_client.generate = generate_and_record


async def _recording(
    outputs: AsyncGenerator[RequestOutput, None], prompt_tokens: int, recorded: list[RopeMode]
) -> AsyncGenerator[RequestOutput, None]:
    async with aclosing(outputs):
        async for output in outputs:
            for answer in output.outputs:
                recorded += modes(prompt_tokens, len(answer.token_ids))
            yield output
