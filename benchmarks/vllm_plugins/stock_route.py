"""vLLM's own chat route beside ours, in the same process: for measuring what ours adds to a request."""

from __future__ import annotations

from argparse import Namespace

from fastapi import FastAPI
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.chat_completion.api_router import router

PREFIX = "/stock"


class StockRoute:
    """vLLM's `EndpointPlugin` protocol: its own router once more, under `/stock`."""

    name = "benchmark_stock_route"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add `/stock/v1/chat/completions`."""
        app.include_router(router, prefix=PREFIX)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Nothing to do: the route uses the chat handler that vLLM made."""
