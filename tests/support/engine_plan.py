"""The memory plan held against the real engine: KV tokens must be equal, not close."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.support.serving import Server

GIB = 1 << 30
VLLM_SAYS = re.compile(
    r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens .*: ([\d.]+)x"
)


def plan_of(server: Server, key: str) -> dict[str, Any]:
    """`GET /v1/plan`."""
    response = httpx.get(f"{server.url}/v1/plan", headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200
    return response.json()


def assert_agrees(server: Server, key: str, *, kv_dtype: str, kv_bytes: int) -> None:
    """The plan equals what vLLM put into its configuration and, on its own, into its log."""
    body = plan_of(server, key)
    plan, actual = body["plan"], body["actual"]
    assert plan["kv_dtype"] == kv_dtype
    assert plan["kv_available_bytes"] == kv_bytes
    for key in ("kv_tokens", "kv_blocks", "block_tokens", "max_model_len"):
        assert plan[key] == actual[key], key
    assert plan["concurrency"] == pytest.approx(actual["concurrency"])
    assert body["error_percent"] == 0
    assert (body["front_end"]["api_processes"], body["front_end"]["rates"]) == (1, [])  # on a CPU
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
