"""What vLLM's engines hold: requests and tokens. With data parallelism a server has several engines."""

from __future__ import annotations

from vllm.config import VllmConfig


def num_engines(config: VllmConfig) -> int:
    """Engines that this server's requests go to; each holds the whole model and a KV cache of its own."""
    parallel = config.parallel_config
    local_only: bool = parallel.local_engines_only
    return parallel.data_parallel_size_local if local_only else parallel.data_parallel_size


def kv_tokens(config: VllmConfig) -> int:
    """Tokens that the KV cache of one engine holds."""
    cache = config.cache_config
    # vLLM adds up the blocks of all engines.
    return cache.kv_cache_size_tokens or (cache.num_gpu_blocks or 0) * cache.block_size // num_engines(config)


def max_running(config: VllmConfig, tokens_per_request: int) -> int:
    """How many requests run at once in all engines: as many as their KV caches hold."""
    of_one = min(config.scheduler_config.max_num_seqs, kv_tokens(config) // tokens_per_request)
    return num_engines(config) * max(1, of_one)
