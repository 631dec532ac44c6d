"""Allow seeds on a CPU for prompts that are computed in chunks.

Symptom: a request with a seed and a long prompt ends the engine ("CPU Generator does not use offset").
Cause: vLLM's V1 runner samples after each chunk of a prompt and then resets the request's generator, which
torch supports on a GPU only. Here a request has no generator until its whole prompt is computed.
Can go: when vLLM's CPU runner does not touch the generators of unfinished prompts.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.cpu_model_runner import CPUModelRunner

_sample = CPUModelRunner.sample_tokens


def sample_tokens(runner: Any, grammar_output: Any) -> Any:
    """Replaces `CPUModelRunner.sample_tokens`: unfinished prompts have no generators meanwhile."""
    generators = runner.input_batch.generators
    unfinished = runner.discard_request_mask.np[: runner.input_batch.num_reqs].nonzero()[0].tolist()
    held = {i: generators.pop(i) for i in unfinished if i in generators}
    try:
        return _sample(runner, grammar_output)
    finally:
        generators.update(held)


def install() -> None:
    """Use `sample_tokens` in this process."""
    CPUModelRunner.sample_tokens = sample_tokens
