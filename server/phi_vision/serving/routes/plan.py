"""The memory plan against what vLLM then has: one log line on start, and `GET /v1/plan`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import State
from vllm.config import VllmConfig
from vllm.logger import init_logger

from phi_vision.serving import capacity

router = APIRouter()
logger = init_logger(f"vllm.{__name__}")  # below vLLM's own logger, which has the handlers


def compare(
    plan: dict[str, Any] | None, vllm_config: VllmConfig, front_end: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Plan, what vLLM reports, both of one engine, how far the plan is off, and the plan of the front end.

    Args:
        plan: fields of `MemoryPlan`; None where memory was not planned.
        vllm_config: as the engine has filled it in.
        front_end: fields of `FrontEnd`; None where it was not planned.
    """
    cache = vllm_config.cache_config
    engines = capacity.num_engines(vllm_config)
    blocks = (cache.num_gpu_blocks or 0) // engines  # vLLM adds them up
    tokens = blocks * int(cache.block_size)
    actual = {
        "engines": engines,
        "kv_blocks": blocks,
        "block_tokens": cache.block_size,
        "kv_tokens": tokens,
        "kv_dtype": cache.cache_dtype,
        "concurrency": cache.kv_cache_max_concurrency,
        "max_model_len": vllm_config.model_config.max_model_len,
    }
    if plan is None:
        return {"plan": None, "actual": actual, "error_percent": None, "front_end": front_end}
    # vLLM tells its API process no bytes: these are its tokens at the planned size of each.
    actual["kv_bytes"] = tokens * plan["kv_bytes_per_token"]
    error_percent = round(100 * (plan["kv_tokens"] - tokens) / tokens, 2) if tokens else None
    return {"plan": plan, "actual": actual, "error_percent": error_percent, "front_end": front_end}


def report(
    state: State, vllm_config: VllmConfig, plan: dict[str, Any] | None, front_end: dict[str, Any] | None
) -> None:
    """Compare once, log it, and keep it for the route."""
    compared = compare(plan, vllm_config, front_end)
    state.phi_vision_plan = compared
    actual = compared["actual"]
    if plan is None:
        logger.info("no memory plan; KV cache: %s tokens", f"{actual['kv_tokens']:,}")
        return
    logger.info(
        "memory plan: KV %.2f GiB, %s tokens, %.2f requests of %s at once; vLLM: %.2f GiB, %s tokens, %.2f; "
        "the plan is off by %+.2f %%",
        plan["kv_available_bytes"] / 2**30,
        f"{plan['kv_tokens']:,}",
        plan["concurrency"],
        f"{plan['max_model_len']:,}",
        actual["kv_bytes"] / 2**30,
        f"{actual['kv_tokens']:,}",
        actual["concurrency"],
        compared["error_percent"],
    )


@router.get("/v1/plan")
async def show_plan(raw_request: Request) -> JSONResponse:
    """The plans that the server was started with, and what vLLM made of that of the memory."""
    return JSONResponse(raw_request.app.state.phi_vision_plan)
