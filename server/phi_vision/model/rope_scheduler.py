"""vLLM's scheduler, which also switches a sequence that outgrows the short window to the long factors.

Symptom: a sequence that grows past 4,096 tokens goes on with the short factors, unlike the original.
Cause: vLLM has one set of factors for an engine. Here such a request is preempted, once: vLLM keeps its
answer, sampling state, penalties, grammar and seed, computes its keys and values anew, and the model then
gives it positions of the long half (`rope_table`).
Can go: when vLLM chooses LongRoPE's factors by the length of a sequence.

`--scheduler-cls` names `scheduler`.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from phi_vision.model.rope_mode import cache_salt, is_long, long_salt, mode_from, outgrown


class _RopeScheduler(Scheduler):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.connector is not None:
            # It keeps the keys of a request's blocks, which change with the mode.
            raise ValueError(
                "KV connectors and offloading do not go with --rope per-request: use --rope long"
            )

    def add_request(self, request: Request) -> None:
        _set_salt(request, cache_salt(mode_from(request.num_tokens), request.cache_salt))
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        for request in [r for r in self.running if not is_long(r.cache_salt)]:
            if not outgrown(request.num_tokens_with_spec + request.num_output_placeholders):
                continue
            if request.num_in_flight_tokens:
                # Its last tokens are still being computed: it waits and keeps its place in the batch.
                request.next_decode_eligible_step = self.current_step + 2
            elif outgrown(request.num_tokens):
                self.running.remove(request)
                self._preempt_request(request, time.monotonic())
            else:
                request.spec_token_ids = []  # only its draft tokens exceed the window
        return super().schedule(throttle_prefills)

    def _get_local_prefix_cache_hit(
        self, request: Request, *limits: Any
    ) -> tuple[KVCacheBlocks, int, int, bool]:
        """vLLM calls this when it schedules a request anew, just before it asks for positions."""
        if not is_long(request.cache_salt) and mode_from(request.num_tokens) == "long":
            _set_salt(request, long_salt(request.cache_salt))
        return super()._get_local_prefix_cache_hit(request, *limits)


class _AsyncRopeScheduler(_RopeScheduler, AsyncScheduler):
    pass


def scheduler(vllm_config: VllmConfig, **settings: Any) -> Scheduler:
    """The scheduler that vLLM would create for this configuration, with the switch."""
    kind = _AsyncRopeScheduler if vllm_config.scheduler_config.async_scheduling else _RopeScheduler
    return kind(vllm_config=vllm_config, **settings)


def _set_salt(request: Request, salt: str | None) -> None:
    """Change the salt of a request that holds no blocks, and the block hashes that depend on it."""
    if salt != request.cache_salt:
        request.cache_salt = salt
        request.block_hashes.clear()
        request.update_block_hashes()
