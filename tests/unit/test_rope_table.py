"""LongRoPE per request without an engine: the table, and the positions that select its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from phi_vision.model import rope_table
from phi_vision.model.config import Phi3VConfig
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.spec import PHI_3_5_VISION
from torch import nn
from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as vllm_rope
from vllm.v1.worker.gpu_input_batch import CachedRequestState
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

WINDOW = PHI_3_5_VISION.short_window  # tokens


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((DEMO_FOLDER / "config.json").read_text())


def vllm_module(config: dict[str, Any], max_model_len: int, patch: pytest.MonkeyPatch) -> nn.Module:
    """vLLM's rotary module as a server of this context would build it."""
    server = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len))
    patch.setattr(vllm_rope, "get_current_vllm_config", lambda: server)
    return vllm_rope.Phi3LongRoPEScaledRotaryEmbedding(
        head_size=96,
        rotary_dim=96,
        max_position_embeddings=config["max_position_embeddings"],
        original_max_position_embeddings=config["original_max_position_embeddings"],
        base=config["rope_theta"],
        is_neox_style=True,
        dtype=torch.float32,
        short_factor=config["rope_scaling"]["short_factor"],
        long_factor=config["rope_scaling"]["long_factor"],
    )


@pytest.mark.parametrize(("mode", "max_model_len"), [("short", 4096), ("long", 131072)])
def test_rotates_as_vllm_does_in_either_mode(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, mode: str, max_model_len: int
) -> None:
    stock = vllm_module(config, max_model_len, monkeypatch)
    model = nn.ModuleList([vllm_module(config, 131072, monkeypatch)])
    length = {"short": WINDOW - 1, "long": WINDOW}[mode]
    rows, delta = rope_table.positions(length, rope_table.build_dual_rope_table(model))
    assert rows.shape == (rope_table.MROPE_ROWS, length)
    assert bool((rows == rows[0]).all())

    positions = torch.tensor([0, 1, 2047, length - 1])
    query, key = torch.randn(2, len(positions), 2 * 96)
    expected = stock(positions, query, key)
    for ours, theirs in zip(model[0](rows[0][positions], query, key), expected, strict=True):
        assert torch.equal(ours, theirs)
    # What follows the prompt goes on in the same half.
    for ours, theirs in zip(model[0](positions + delta, query, key), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_no_position_of_a_short_request_reads_a_long_row(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.ModuleList([vllm_module(config, 131072, monkeypatch)])
    long_offset = rope_table.build_dual_rope_table(model)
    assert long_offset == config["max_position_embeddings"]
    # The first rotary pair has factor 1 in both sets; the last differs. Its angle in row n is the unscaled
    # one divided by the set's factor.
    scaling = config["rope_scaling"]
    short, long = scaling["short_factor"][-1], scaling["long_factor"][-1]
    assert long > 2 * short
    table = model[0].long_short_cos_sin_cache
    assert table.shape == (2 * long_offset, 96)
    angles = torch.atan2(table[:, 95], table[:, 47])
    unscaled = 10000.0 ** (-94 / 96)
    for row in (
        WINDOW - 1,
        WINDOW,
        2 * WINDOW,
    ):
        assert angles[row] == pytest.approx(row * unscaled / short, abs=1e-4)
        assert angles[row + long_offset] == pytest.approx(row * unscaled / long, abs=1e-4)


def test_refuses_a_checkpoint_with_another_window(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**config, "original_max_position_embeddings": 8192}
    with pytest.raises(ValueError, match="8192 tokens in this checkpoint, not at 4096: use --rope long"):
        rope_table.build_dual_rope_table(nn.ModuleList([vllm_module(other, 131072, monkeypatch)]))


def test_fixed_modes_leave_vllm_alone() -> None:
    assert Phi3VConfig().mrope_section is None
    assert Phi3VConfig(longrope_per_request=True).mrope_section is not None


@pytest.mark.full
def test_the_v2_runner_reads_the_same_rows() -> None:
    script = Path(__file__).parents[1] / "support" / "rope_v2.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    long = 131072
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "prefill": [*range(5), *range(long, long + 5000)],
        "chunk": [4, long + 4998, long + 4999],
        "decode": [long + 5000, 5],
        "resumed short": list(range(8)),
        "resumed long": [*range(long, long + 4097)],
    }


def test_the_v1_runner_asks_again_when_a_request_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced is only the runner's own part: copying the rows."""
    monkeypatch.setattr(GPUModelRunner, "_calc_mrope_positions", lambda runner, output: None)
    rope_table.refresh_positions_on_resumption()
    rope_table.refresh_positions_on_resumption()  # once for each model in a process
    long_offset = 131072
    model = SimpleNamespace(
        get_mrope_input_positions=lambda ids, _: rope_table.positions(len(ids), long_offset)
    )

    def known(prompt: int, answer: int) -> CachedRequestState:
        state = CachedRequestState(
            req_id="",
            prompt_token_ids=[7] * prompt,
            mm_features=[],
            sampling_params=None,
            generator=None,
            block_ids=([],),
            num_computed_tokens=0,
            output_token_ids=[7] * answer,
        )
        state.mrope_positions, state.mrope_position_delta = rope_table.positions(prompt, long_offset)
        return state

    requests = {"grew": known(4000, 97), "short": known(4000, 50), "runs on": known(4000, 97)}
    runner = SimpleNamespace(requests=requests, get_model=lambda: model)
    resumed = SimpleNamespace(scheduled_cached_reqs=SimpleNamespace(resumed_req_ids={"grew", "short"}))
    GPUModelRunner._calc_mrope_positions(runner, resumed)
    assert {name: state.mrope_position_delta for name, state in requests.items()} == {
        "grew": long_offset,
        "short": 0,
        "runs on": 0,
    }
    assert requests["grew"].mrope_positions[0].tolist() == [*range(long_offset, long_offset + 4097)]
