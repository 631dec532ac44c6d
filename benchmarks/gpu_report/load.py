"""Closed loops of streamed chat requests, each timed by the request function of `vllm bench serve`.

AIPerf, the load generator of `make bench`, needs an environment of its own and a network to make it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
from vllm.benchmarks.lib.endpoint_request_func import (
    RequestFuncInput,
    RequestFuncOutput,
    async_request_openai_chat_completions,
)

_TIMEOUT_S = 600


def ask_all(url: str, bodies: Sequence[dict[str, Any]], concurrency: int = 1) -> list[RequestFuncOutput]:
    """vLLM's record of each answer: `ttft`, `latency` (of the last token), `output_tokens`, `prompt_len`.

    Args:
        url: of the server, without /v1.
        bodies: chat requests with `max_tokens`.
        concurrency: requests in flight.

    Raises:
        RuntimeError: a request failed.
    """
    return asyncio.run(_ask_all(f"{url}/v1/chat/completions", bodies, concurrency))


def closed_loop(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> dict[str, Any]:
    """Figures of all but the first `concurrency` requests, which warm up."""
    ask_all(url, bodies[:concurrency], concurrency)
    began = time.perf_counter()
    answers = ask_all(url, bodies[concurrency:], concurrency)
    took_s = time.perf_counter() - began
    return {
        "requests": len(answers),
        "prompt_tokens": round(statistics.mean(answer.prompt_len for answer in answers)),
        "output_tokens": answers[0].output_tokens,
        "ttft_p50_ms": _ms(statistics.median(answer.ttft for answer in answers)),
        "ttft_max_ms": _ms(max(answer.ttft for answer in answers)),
        "itl_p50_ms": _ms(statistics.median(between_tokens_s(answer) for answer in answers)),
        "e2e_p50_ms": _ms(statistics.median(answer.latency for answer in answers)),
        "requests_per_s": round(len(answers) / took_s, 3),
        "output_tokens_per_s": round(sum(answer.output_tokens for answer in answers) / took_s, 1),
    }


def between_tokens_s(answer: RequestFuncOutput) -> float:
    """From one token to the next, on average over an answer."""
    return (answer.latency - answer.ttft) / max(1, answer.output_tokens - 1)


async def _ask_all(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> list[RequestFuncOutput]:
    gate = asyncio.Semaphore(concurrency)

    async def ask(body: dict[str, Any]) -> RequestFuncOutput:
        request = RequestFuncInput(
            prompt="",
            api_url=url,
            prompt_len=0,
            output_len=body["max_tokens"],
            model=body["model"],
            chat_messages=body["messages"],
            extra_body=body,
        )
        async with gate:
            answer = await async_request_openai_chat_completions(request, session)
        if not answer.success:
            raise RuntimeError(answer.error[-600:])
        return answer

    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0),
        raise_for_status=_raise_with_body,
    ) as session:
        return await asyncio.gather(*map(ask, bodies))


async def _raise_with_body(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {(await response.text())[:500]}")


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
