"""vLLM's scheduler, which also takes a sequence that outgrows the short factors over to the long ones.

Symptom: with one engine for all lengths, vLLM computes a sequence with one set of factors for life.
Cause: it knows no mode of a request. Here such a request is preempted, once: what vLLM keeps of it through
a preemption (answer, sampling state, penalties, grammar, seed) is kept, its keys and values are computed
anew, and the model gives it long positions then (`model.rope`).
Can go: when vLLM chooses LongRoPE's factors by the length of a sequence. `--scheduler-cls` names `scheduler`.
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


class _SwitchesRope(Scheduler):
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
                # Its last tokens are not known yet. It waits for them with its place in the batch.
                request.next_decode_eligible_step = self.current_step + 2
            elif outgrown(request.num_tokens):
                self.running.remove(request)
                self._preempt_request(request, time.monotonic())
            else:
                request.spec_token_ids = []  # drafts alone would outgrow it
        return super().schedule(throttle_prefills)

    def _get_local_prefix_cache_hit(
        self, request: Request, *limits: Any
    ) -> tuple[KVCacheBlocks, int, int, bool]:
        """Called where a request is let in, which is when the model is asked for its positions."""
        if not is_long(request.cache_salt) and mode_from(request.num_tokens) == "long":
            _set_salt(request, long_salt(request.cache_salt))
        return super()._get_local_prefix_cache_hit(request, *limits)


class _SwitchesRopeAsync(_SwitchesRope, AsyncScheduler):
    pass


def scheduler(vllm_config: VllmConfig, **settings: Any) -> Scheduler:
    """The scheduler that vLLM itself would make, with the switch."""
    kind = _SwitchesRopeAsync if vllm_config.scheduler_config.async_scheduling else _SwitchesRope
    return kind(vllm_config=vllm_config, **settings)


def _set_salt(request: Request, salt: str | None) -> None:
    """Set the salt of a request that holds no blocks, and what was made of the old one."""
    if salt != request.cache_salt:
        request.cache_salt = salt
        request.block_hashes.clear()
        request.update_block_hashes()
