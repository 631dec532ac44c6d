"""A server that answers like vLLM, with latencies and failures known beforehand.

`python fake_server.py --help` tells how. The benchmark's figures are checked against it. The first line that
it prints is its address, on a port that the system chose; `held` follows when a request is first held back.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

PROMPT_TOKENS = 1939
METRICS = """\
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="fake"} 0.25
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0
"""


def app(ttft_s: float, itl_s: float, fail_every: int, answers: int | None) -> Starlette:
    """The server; each `fail_every`-th request gets a 500 (0: none), and after `answers` none gets any."""
    numbers = itertools.count(1)

    async def chat(request: Request) -> Response:
        body = await request.json()
        number = next(numbers)
        if answers is not None and number > answers:
            if number == answers + 1:
                print("held", flush=True)
            await asyncio.Event().wait()
        if fail_every and number % fail_every == 0:
            return JSONResponse({"error": {"message": "as asked", "code": 500}}, status_code=500)
        tokens = body.get("max_tokens", 16)
        return StreamingResponse(stream(number, tokens), media_type="text/event-stream")

    async def stream(number: int, tokens: int) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for i in range(tokens):
            await asyncio.sleep(max(0.0, start + ttft_s + i * itl_s - loop.time()))
            yield chunk(number, [{"index": 0, "delta": {"role": "assistant", "content": "x"}}])
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": tokens,
            "total_tokens": PROMPT_TOKENS + tokens,
        }
        yield chunk(number, [], usage=usage)
        yield "data: [DONE]\n\n"

    def chunk(number: int, choices: list[Any], **more: object) -> str:
        body = {"id": f"chat-{number}", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
        return f"data: {json.dumps(body | {'choices': choices} | more)}\n\n"

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "fake", "object": "model"}]})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/metrics", lambda _: PlainTextResponse(METRICS)),
            Route("/health", lambda _: PlainTextResponse("")),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttft-s", type=float, default=0.2)
    parser.add_argument("--itl-s", type=float, default=0.02)
    parser.add_argument("--fail-every", type=int, default=0, help="each N-th request fails; 0: none")
    parser.add_argument("--answers", type=int, help="requests that get an answer; default: all")
    options = parser.parse_args()
    served = app(options.ttft_s, options.itl_s, options.fail_every, options.answers)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(served, log_level="warning")).run([listening])


if __name__ == "__main__":
    main()
