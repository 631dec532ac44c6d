"""`phi-vision serve` with a stub in place of vLLM's engine core: starts in seconds, needs no model.

    python tests/support/stub_engine.py FOLDER [flags of `phi-vision serve`]

All that runs in the API process is real: the launcher, routes, middleware, renderer, sampling parameters,
vLLM's output processing and uvicorn. What would go to the engine's process is written to
`FOLDER/requests.jsonl`, a line each, and answered with `ANSWER`; nothing is answered while `FOLDER/hold`
exists. `stub_server` is the test's side.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ANSWER = "stub answer"
KV_BLOCKS = 4096


class StubEngineCore:
    """What `AsyncLLM` asks of its engine core's client."""

    def __init__(self, vllm_config: Any, tokenizer: Any, folder: Path) -> None:
        from vllm.v1.serial_utils import MsgpackEncoder

        cache = vllm_config.cache_config
        cache.num_gpu_blocks = KV_BLOCKS
        cache.kv_cache_size_tokens = KV_BLOCKS * cache.block_size
        cache.kv_cache_max_concurrency = cache.kv_cache_size_tokens / vllm_config.model_config.max_model_len
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)
        self._folder = folder
        self._encoder = MsgpackEncoder()
        # Without the first token, a space that stands for the beginning of a text.
        self._answer_ids = tokenizer.encode(ANSWER, add_special_tokens=False)[1:]
        self._end_id = tokenizer.convert_tokens_to_ids("<|end|>")
        self._outputs: asyncio.Queue[Any] = asyncio.Queue()
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def get_output_async(self) -> Any:
        return await self._outputs.get()

    async def add_request_async(self, request: Any) -> None:
        self._encoder.encode(request)  # which fails on what cannot be sent to another process
        self._record(request)
        self._at_work[request.request_id] = asyncio.create_task(self._answer(request))

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            if task := self._at_work.pop(request_id, None):
                task.cancel()
                self._write({"aborted": request_id})

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def is_sleeping_async(self) -> bool:
        return False

    async def reset_mm_cache_async(self) -> None:
        return None

    def shutdown(self, timeout: float | None = None) -> None:
        for task in self._at_work.values():
            task.cancel()

    async def _answer(self, request: Any) -> None:
        from vllm.v1.engine import FinishReason
        from vllm.v1.metrics.stats import PrefillStats

        while (self._folder / "hold").exists():
            await asyncio.sleep(0.01)
        params = request.sampling_params
        token_ids = [*self._answer_ids, self._end_id][: params.max_tokens]
        for i, token_id in enumerate(token_ids):
            stopped = token_id == self._end_id
            ended = stopped or i + 1 == len(token_ids)
            reason = (FinishReason.STOP if stopped else FinishReason.LENGTH) if ended else None
            stats = None
            if i == 0:
                stats = PrefillStats()
                stats.num_prompt_tokens = len(request.prompt_token_ids)
            self._put(request.request_id, token_id, reason, stats)
            await asyncio.sleep(0)
        self._at_work.pop(request.request_id, None)

    def _put(self, request_id: str, token_id: int, reason: Any, stats: Any) -> None:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

        output = EngineCoreOutput(request_id, [token_id], finish_reason=reason, prefill_stats=stats)
        self._outputs.put_nowait(EngineCoreOutputs(outputs=[output]))

    def _record(self, request: Any) -> None:
        params = request.sampling_params
        sampling = {name: getattr(params, name) for name in params.__struct_fields__}
        features = [feature.modality for feature in request.mm_features or []]
        self._write(
            {
                "request_id": request.request_id,
                "prompt_token_ids": request.prompt_token_ids,
                "modalities": features,
                "cache_salt": request.cache_salt,
                "sampling": sampling,
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        with (self._folder / "requests.jsonl").open("a") as file:
            file.write(json.dumps(record, default=str) + "\n")


def main() -> int:
    """Serve with the stub."""
    folder, flags = Path(sys.argv[1]), sys.argv[2:]
    from vllm.v1.engine import core_client

    def make_stub(vllm_config: Any, *_: Any, renderer: Any = None, **__: Any) -> StubEngineCore:
        return StubEngineCore(vllm_config, renderer.tokenizer, folder)

    core_client.EngineCoreClient.make_async_mp_client = staticmethod(make_stub)
    from phi_vision.cli.main import main as phi_vision

    return phi_vision(["serve", *flags])


if __name__ == "__main__":
    sys.exit(main())
