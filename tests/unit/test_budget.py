"""How much of a device the server may take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from phi_vision.planning.budget import engine_limits, memory_budget
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import GPU_NAMES, named_gpu
from phi_vision.planning.hardware import GIB

from tests.support.launch import A10, CPU


def test_less_than_the_share_where_others_hold_memory() -> None:
    budget = memory_budget(replace(A10, free_bytes=12 * GIB), 0.92)
    assert budget.is_held_back and budget.bytes == 11 * GIB  # a GPU needs some outside vLLM's share
    assert 0.99 * budget.bytes < budget.memory_utilization * A10.memory_bytes <= budget.bytes


def test_the_share_where_enough_is_free() -> None:
    for device in (A10, replace(A10, free_bytes=A10.memory_bytes - GIB // 2)):  # the second has a desktop
        budget = memory_budget(device, 0.92)
        assert not budget.is_held_back and budget.memory_utilization == 0.92
        assert budget.bytes == pytest.approx(0.92 * A10.memory_bytes)


def test_all_that_is_free_of_a_cpu_can_be_taken() -> None:
    assert memory_budget(CPU, 1.0).bytes == CPU.free_bytes


def test_the_limits_are_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    for name in GPU_NAMES:
        gpu = named_gpu(name)
        memory, title = gpu.memory_bytes, gpu.name
        monkeypatch.setattr(type(current_platform), "get_device_total_memory", lambda *_, m=memory: m)
        monkeypatch.setattr(type(current_platform), "get_device_name", lambda *_, t=title: t)
        tokens, seqs = (table[UsageContext.OPENAI_API_SERVER] for table in EngineArgs.get_batch_defaults(1))
        ours = engine_limits(EngineFlags(), gpu, 131072, 16)
        assert (ours.max_num_batched_tokens, ours.max_num_seqs) == (tokens, seqs), name


def test_the_users_limits_stand_in_for_vllms() -> None:
    limits = engine_limits(EngineFlags(max_num_seqs=4, max_num_batched_tokens=512), A10, 131072, 16)
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (4, 512)
    assert engine_limits(EngineFlags(max_num_seqs=4), A10, 100, 16).max_num_batched_tokens == 400
    assert engine_limits(EngineFlags(dtype="float32"), A10, 131072, 16).element_bytes == 4
