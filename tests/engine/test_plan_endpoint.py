"""The plan beside what the engine says; `test_custom_settings` holds it against another engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.support.engine_plan import GIB, assert_agrees
from tests.support.serving import Server


def engine_with(num_gpu_blocks: int) -> Any:
    """What the API process knows of an engine."""
    cache = SimpleNamespace(
        num_gpu_blocks=num_gpu_blocks, block_size=16, cache_dtype="auto", kv_cache_max_concurrency=1.5
    )
    one = SimpleNamespace(local_engines_only=False, data_parallel_size=1)
    return SimpleNamespace(
        cache_config=cache, parallel_config=one, model_config=SimpleNamespace(max_model_len=64)
    )


def test_the_error_is_in_percent_of_what_vllm_has() -> None:
    from phi_vision.serving.routes.plan import compare  # imports vLLM

    plan = {"kv_tokens": 103 * 16, "kv_bytes_per_token": 1024}
    body = compare(plan, engine_with(100))
    assert body["error_percent"] == 3.0
    assert body["actual"]["kv_tokens"] == 1600 and body["actual"]["kv_bytes"] == 1600 * 1024
    assert compare(plan, engine_with(0))["error_percent"] is None


def test_without_a_plan_only_the_actual_is_shown() -> None:
    from phi_vision.serving.routes.plan import compare  # imports vLLM

    body = compare(None, engine_with(100))
    assert body["plan"] is None and body["error_percent"] is None
    assert body["actual"]["kv_tokens"] == 1600 and body["front_end"] is None
    assert compare(None, engine_with(100), {"api_processes": 1})["front_end"] == {"api_processes": 1}


def test_cache_of_four_full_requests_in_the_models_dtype(server: Server) -> None:
    assert_agrees(server, "none", kv_dtype="bf16", kv_bytes=1 * GIB)
