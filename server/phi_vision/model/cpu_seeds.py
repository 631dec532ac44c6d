"""Requests with a seed on a CPU, whose prompts come in chunks.

Symptom: the engine dies ("CPU Generator does not use offset").
Cause: vLLM's V1 runner samples after each chunk and turns the request's generator back after, which torch
can do on a GPU only. Here such a request has no generator until its prompt is through.
Can go: when vLLM's CPU runner leaves the generators of unfinished prompts alone.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.cpu_model_runner import CPUModelRunner

_sample = CPUModelRunner.sample_tokens


def sample_tokens(runner: Any, grammar_output: Any) -> Any:
    """Sample one step, the generators of unfinished prompts put aside."""
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
