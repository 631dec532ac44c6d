"""A seed and a prompt in chunks, on a CPU: vLLM's own bookkeeping, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from phi_vision.model import cpu_seeds


def test_generators_of_unfinished_prompts_are_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = {i: torch.Generator().manual_seed(i) for i in (0, 2, 3)}
    states = {i: generator.get_state() for i, generator in generators.items()}
    used: list[int] = []

    def sample(runner: Any, grammar_output: Any) -> str:
        """As vLLM: each generator draws; those of unfinished prompts would be turned back, which raises."""
        for i, generator in runner.input_batch.generators.items():
            used.append(i)
            torch.empty(4).exponential_(generator=generator)
            if runner.discard_request_mask.np[i]:
                generator.set_offset(generator.get_offset() - 4)
        return f"sampled {grammar_output}"

    monkeypatch.setattr(cpu_seeds, "_sample", sample)
    runner = SimpleNamespace(
        input_batch=SimpleNamespace(generators=generators, num_reqs=4),
        # Requests 1 and 2 are unfinished; behind the last request stands what an earlier step left.
        discard_request_mask=SimpleNamespace(np=np.array([False, True, True, False, True])),
    )
    assert cpu_seeds.sample_tokens(runner, "freely") == "sampled freely"
    assert used == [0, 3]
    assert sorted(generators) == [0, 2, 3]
    assert torch.equal(generators[2].get_state(), states[2])
    assert not torch.equal(generators[0].get_state(), states[0])
