"""Measure how long each prompt is with the engine, its queue included.

Symptom: beside the seconds that a picture is fetched and drawn, nothing says how long the engine took, on all
routes alike and also for requests that are called back.
Cause: vLLM's times are those of requests that end well; all routes meet in `EngineClient.generate` alone.
Can go: when vLLM's own metrics count every request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.outputs import RequestOutput

from phi_vision.serving import metrics


def install(engine_client: EngineClient) -> None:
    """Wrap `generate` of this engine."""
    generate = engine_client.generate

    def generate_and_time(*arguments: Any, **options: Any) -> AsyncGenerator[RequestOutput, None]:
        return _timed(generate(*arguments, **options))

    engine_client.generate = generate_and_time


async def _timed(outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[RequestOutput, None]:
    with metrics.timing("engine"):
        async with aclosing(outputs):
            async for output in outputs:
                yield output
