"""`phi-vision serve` with a stub in place of vLLM's engine core: starts in seconds, needs no model.

    python tests/support/stub_engine.py FOLDER [flags of `phi-vision serve`]

All that runs in the API process is real: the launcher, routes, middleware, renderer, sampling parameters,
vLLM's output processing and uvicorn. What would go to the engine's process is written to
`FOLDER/requests.jsonl`, a line each, and answered as `FOLDER/answers.json` says, or with `ANSWER`; prompts in
which the words of `FOLDER/hold` stand are not answered while it exists. `stub_server` is the test's side.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

ANSWER = "stub answer"
KV_BLOCKS = 4096
_UNLIKELY = -20.0  # log-probability of the tokens that were not chosen


@dataclass(frozen=True)
class ScriptedAnswer:
    """What the stub answers to the first requests that it fits.

    Args:
        text: cut at the request's `max_tokens`, which ends it with "length".
        logprob: of each token; of a sequence, the last one stands for the rest.
        finish: "length" and "repetition" end it without the token that ends an answer.
        times: how many requests it answers; None for all.
        paper: it fits requests with a picture of which a quarter or more has this grey, 0 to 255.
        prompt: it fits requests with these words in the prompt.
        held_from: so many tokens come while the request is held, and the rest when it no longer is.
    """

    text: str
    logprob: float | Sequence[float] = -0.01
    finish: Literal["stop", "length", "repetition"] = "stop"
    times: int | None = 1
    paper: int | None = None
    prompt: str | None = None
    held_from: int = 0

    def logprob_at(self, place: int) -> float:
        """The log-probability of the token at this place."""
        if isinstance(self.logprob, float | int):
            return self.logprob
        return self.logprob[min(place, len(self.logprob) - 1)]


class Script:
    """The answers of `FOLDER/answers.json`, in order: `{"id": ..., "answers": [{"text": ...}, ...]}`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "answers.json"
        self._id = ""
        self._given: Counter[int] = Counter()

    def next_answer(self, prompt: str, papers: Sequence[set[int]]) -> ScriptedAnswer:
        """The first answer that fits and has not been given as often as it may; `ANSWER` where none does."""
        script: dict[str, Any] = {"id": "", "answers": []}
        if self._file.exists():
            script = json.loads(self._file.read_text())
        if script["id"] != self._id:
            self._id = script["id"]
            self._given.clear()
        for i, answer in enumerate(ScriptedAnswer(**entry) for entry in script["answers"]):
            if answer.times is not None and self._given[i] >= answer.times:
                continue
            if answer.prompt is not None and answer.prompt not in prompt:
                continue
            if answer.paper is None or any(answer.paper in greys for greys in papers):
                self._given[i] += 1
                return answer
        return ScriptedAnswer(ANSWER)


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
        self._tokenizer = tokenizer
        self._script = Script(folder)
        self._papers: dict[str, set[int]] = {}  # by the key of the picture: vLLM sends each but once
        self._end_id = tokenizer.convert_tokens_to_ids("<|end|>")
        self._outputs: asyncio.Queue[Any] = asyncio.Queue()
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def get_output_async(self) -> Any:
        return await self._outputs.get()

    async def add_request_async(self, request: Any) -> None:
        self._encoder.encode(request)  # which fails on what cannot be sent to another process
        self._record(request)
        papers = [self._papers_of(feature) for feature in request.mm_features or []]
        prompt = self._tokenizer.decode(request.prompt_token_ids)
        answer = self._script.next_answer(prompt, papers)
        self._at_work[request.request_id] = asyncio.create_task(self._answer(request, answer, prompt))

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

    async def _answer(self, request: Any, answer: ScriptedAnswer, prompt: str) -> None:
        from vllm.v1.engine import FinishReason
        from vllm.v1.metrics.stats import PrefillStats

        params = request.sampling_params
        whole = self._token_ids(answer.text)
        if answer.finish == "stop":
            whole.append(self._end_id)
        token_ids = whole[: params.max_tokens]
        last_reason = FinishReason[answer.finish.upper()] if token_ids == whole else FinishReason.LENGTH
        for i, token_id in enumerate(token_ids):
            while i >= answer.held_from and self._is_held(prompt):
                await asyncio.sleep(0.01)
            stats = None
            if i == 0:
                stats = PrefillStats()
                stats.num_prompt_tokens = len(request.prompt_token_ids)
            self._put(
                request,
                token_id,
                None
                if params.logprobs is None
                else _logprobs(token_id, answer.logprob_at(i), params.logprobs),
                last_reason if i + 1 == len(token_ids) else None,
                stats,
            )
            await asyncio.sleep(0)
        self._at_work.pop(request.request_id, None)

    def _is_held(self, prompt: str) -> bool:
        try:
            return (self._folder / "hold").read_text() in prompt
        except FileNotFoundError:
            return False

    def _token_ids(self, text: str) -> list[int]:
        """Without the space that the tokenizer puts before a text: it goes before the line break instead."""
        line_break: list[int] = self._tokenizer.encode("\n", add_special_tokens=False)
        token_ids: list[int] = self._tokenizer.encode("\n" + text, add_special_tokens=False)
        return token_ids[len(line_break) :]

    def _papers_of(self, feature: Any) -> set[int]:
        """The greys that fill a quarter or more of a picture each."""
        if feature.data is not None:
            green = feature.data["canvas"].data[1]
            counts = green.flatten().bincount(minlength=256)
            self._papers[feature.mm_hash] = set((counts * 4 >= green.numel()).nonzero().flatten().tolist())
        return self._papers[feature.mm_hash]

    def _put(self, request: Any, token_id: int, logprobs: Any, reason: Any, stats: Any) -> None:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

        output = EngineCoreOutput(
            request.request_id,
            [token_id],
            new_logprobs=logprobs,
            finish_reason=reason,
            stop_reason="repetition_detected" if reason is FinishReason.REPETITION else None,
            trace_headers=request.trace_headers,
            prefill_stats=stats,
        )
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
                "carried": [feature.data is not None for feature in request.mm_features or []],
                "cache_salt": request.cache_salt,
                "sampling": sampling,
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        with (self._folder / "requests.jsonl").open("a") as file:
            file.write(json.dumps(record, default=str) + "\n")


def _logprobs(token_id: int, logprob: float, num_others: int) -> Any:
    """The token's log-probability, and those of the `num_others` likeliest tokens, itself the first."""
    import numpy as np
    from vllm.v1.outputs import LogprobsLists

    others = [other for other in range(num_others + 1) if other != token_id][: max(0, num_others - 1)]
    top = [token_id, *others] if num_others else []
    logprobs = [logprob, *[logprob, *[_UNLIKELY] * len(others)][: len(top)]]
    return LogprobsLists(np.array([[token_id, *top]]), np.array([logprobs]), np.array([1]))


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
