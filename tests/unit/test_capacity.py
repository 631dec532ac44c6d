"""How many requests run at once, in one engine and in several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phi_vision.serving import capacity


@dataclass
class Config:
    """As much of vLLM's config as is asked for."""

    max_num_seqs: int = 256
    kv_cache_size_tokens: int | None = 30_000
    num_gpu_blocks: int = 0
    block_size: int = 16
    data_parallel_size: int = 1
    data_parallel_size_local: int = 1
    local_engines_only: bool = False

    cache_config = scheduler_config = parallel_config = property(lambda self: self)


def running(**settings: Any) -> int:
    config: Any = Config(**settings)
    return capacity.max_running(config, 3000)


def test_as_many_requests_run_at_once_as_the_cache_holds() -> None:
    assert running() == 10
    assert running(max_num_seqs=4) == 4
    assert running(kv_cache_size_tokens=None, num_gpu_blocks=100) == 1


def test_several_engines_hold_so_many_times_more() -> None:
    assert running(data_parallel_size=3) == 30
    assert running(data_parallel_size=3, max_num_seqs=4) == 12
    # vLLM adds up the blocks, not the tokens.
    assert running(data_parallel_size=2, kv_cache_size_tokens=None, num_gpu_blocks=2 * 1875) == 20
    assert running(data_parallel_size=4, data_parallel_size_local=2, local_engines_only=True) == 20
