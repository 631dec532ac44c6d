"""The plan against the real engine on the CPU: KV tokens must be equal, not close."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from serving import Server, running_server

GIB = 1 << 30
VLLM_SAYS = re.compile(
    r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens .*: ([\d.]+)x"
)


def plan_of(server: Server) -> dict[str, Any]:
    response = httpx.get(f"{server.url}/v1/plan")
    assert response.status_code == 200
    return response.json()


def assert_agrees(server: Server, *, kv_dtype: str, kv_bytes: int) -> None:
    """The plan equals what vLLM put into its configuration and, on its own, into its log."""
    body = plan_of(server)
    plan, actual = body["plan"], body["actual"]
    assert plan["kv_dtype"] == kv_dtype
    assert plan["kv_available_bytes"] == kv_bytes
    for key in ("kv_tokens", "kv_blocks", "block_tokens", "max_model_len"):
        assert plan[key] == actual[key], key
    assert plan["concurrency"] == pytest.approx(actual["concurrency"])
    assert body["error_percent"] == 0
    said = VLLM_SAYS.search(server.log)
    assert said is not None
    tokens, length, concurrency = (part.replace(",", "") for part in said.groups())
    assert int(tokens) == plan["kv_tokens"]
    assert int(length) == plan["max_model_len"]
    assert float(concurrency) == pytest.approx(plan["concurrency"], abs=0.005)
    logged = [line for line in server.log.splitlines() if "memory plan: KV" in line]
    assert len(logged) == 1
    assert logged[0].count(f"{plan['kv_tokens']:,} tokens") == 2
    assert "off by +0.00 %" in logged[0]


def engine_with(num_gpu_blocks: int) -> Any:
    """What the API process knows of an engine."""
    cache = SimpleNamespace(
        num_gpu_blocks=num_gpu_blocks, block_size=16, cache_dtype="auto", kv_cache_max_concurrency=1.5
    )
    return SimpleNamespace(cache_config=cache, model_config=SimpleNamespace(max_model_len=64))


def test_the_error_is_in_percent_of_what_vllm_has() -> None:
    from phi_vision.plugins.plan_endpoint import compare  # imports vLLM

    plan = {"kv_tokens": 103 * 16, "kv_bytes_per_token": 1024}
    body = compare(plan, engine_with(100))
    assert body["error_percent"] == 3.0
    assert body["actual"]["kv_tokens"] == 1600 and body["actual"]["kv_bytes"] == 1600 * 1024
    assert compare(plan, engine_with(0))["error_percent"] is None


def test_without_a_plan_only_the_actual_is_shown() -> None:
    from phi_vision.plugins.plan_endpoint import compare  # imports vLLM

    body = compare(None, engine_with(100))
    assert body["plan"] is None and body["error_percent"] is None
    assert body["actual"]["kv_tokens"] == 1600


def test_cache_of_four_full_requests_in_the_models_dtype(server: Server) -> None:
    assert_agrees(server, kv_dtype="bf16", kv_bytes=1 * GIB)


@pytest.mark.slow
def test_fp8_cache_of_a_given_size_for_the_whole_context(tmp_path: Path) -> None:
    flags = ("--model", "demo", "--kv-cache-dtype", "fp8_e4m3")
    with running_server(tmp_path / "log.txt", *flags, env={"VLLM_CPU_KVCACHE_SPACE": "2"}) as server:
        assert plan_of(server)["plan"]["max_model_len"] == 131072
        assert_agrees(server, kv_dtype="fp8_e4m3", kv_bytes=2 * GIB)
        answer = server.client().chat.completions.create(
            model="phi-3.5-vision", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens >= 1
