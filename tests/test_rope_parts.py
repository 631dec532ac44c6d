"""The parts of LongRoPE per request, without an engine: the table, the positions, the header."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from phi_vision.checkpoint import DEMO_FOLDER
from phi_vision.model import rope
from phi_vision.model.config import Phi3VConfig
from phi_vision.plugins import rope as plugin
from phi_vision.rope_mode import HEADER, SHORT_MARK, SHORT_WINDOW
from torch import nn
from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as vllm_rope
from vllm.multimodal.inputs import (
    MultiModalFeatureSpec,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    PlaceholderRange,
)
from vllm.multimodal.utils import argsort_mm_positions, get_mm_features_in_window, strip_covered_mm_data
from vllm.sampling_params import SamplingParams
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder


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
    marks = [SimpleNamespace(modality="image")]
    if mode == "short":
        marks.insert(0, SimpleNamespace(modality=SHORT_MARK))
    rows, delta = rope.positions(max_model_len, marks, rope.hold_both_modes(model))
    assert rows.shape == (rope.MROPE_ROWS, max_model_len)
    assert bool((rows == rows[0]).all())

    positions = torch.tensor([0, 1, 2047, max_model_len - 1])
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
    long_offset = rope.hold_both_modes(model)
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
    for row in (SHORT_WINDOW - 1, SHORT_WINDOW, 2 * SHORT_WINDOW):
        assert angles[row] == pytest.approx(row * unscaled / short, abs=1e-4)
        assert angles[row + long_offset] == pytest.approx(row * unscaled / long, abs=1e-4)


def test_refuses_a_checkpoint_with_another_window(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**config, "original_max_position_embeddings": 8192}
    with pytest.raises(ValueError, match="8192 tokens in this checkpoint, not at 4096: use --rope long"):
        rope.hold_both_modes(nn.ModuleList([vllm_module(other, 131072, monkeypatch)]))


def test_fixed_modes_leave_vllm_alone() -> None:
    assert Phi3VConfig().mrope_section is None
    assert Phi3VConfig(longrope_per_request=True).mrope_section is not None


def test_marks_a_short_prompt_and_changes_nothing_else() -> None:
    prompt = {"type": "token", "prompt_token_ids": [1] * 100, "cache_salt": "mine", "arrival_time": 3.0}
    params = SamplingParams(max_tokens=None)
    note = plugin._Note(max_tokens_asked=False)
    marked, limited = plugin.in_mode(prompt, params, note, max_model_len=16384)
    assert note.modes == ["short"]
    assert limited.max_tokens == SHORT_WINDOW - 100
    assert params.max_tokens is None  # the caller's own
    assert marked["type"] == "multimodal"
    assert marked["prompt_token_ids"] == prompt["prompt_token_ids"]
    assert marked["arrival_time"] == 3.0
    assert marked["cache_salt"] == "rope-short:mine"
    assert list(marked["mm_kwargs"]) == list(marked["mm_hashes"]) == list(marked["mm_placeholders"])
    assert [(p.offset, p.length) for p in marked["mm_placeholders"][SHORT_MARK]] == [(0, 0)]
    assert "mm_kwargs" not in prompt


def test_the_mark_crosses_vllm_unseen_until_positions_are_asked_for() -> None:
    """What vLLM's engine and runners do with the items of a request, step by step."""
    image = PlaceholderRange(offset=1, length=313)
    item = MultiModalKwargsItem.dummy()
    prompt = {
        "type": "multimodal",
        "prompt_token_ids": [1] * 400,
        "mm_kwargs": MultiModalKwargsItems({"image": [item]}),
        "mm_hashes": {"image": ["hash"]},
        "mm_placeholders": {"image": [image]},
    }
    marked, _ = plugin.in_mode(prompt, SamplingParams(max_tokens=9), plugin._Note(), max_model_len=16384)
    order = argsort_mm_positions(marked["mm_placeholders"])
    assert order == [(SHORT_MARK, 0), ("image", 0)]
    features = [
        MultiModalFeatureSpec(
            data=marked["mm_kwargs"][modality][i],
            modality=modality,
            identifier=marked["mm_hashes"][modality][i],
            mm_position=marked["mm_placeholders"][modality][i],
        )
        for modality, i in order
    ]
    # From the API's process to the engine's.
    sent = MsgpackEncoder().encode(features)
    arrived = MsgpackDecoder(list[MultiModalFeatureSpec]).decode(sent)
    # No step of the scheduler or a runner has it among its encoder inputs.
    assert get_mm_features_in_window(arrived, 0, 400) == (1, 2)
    # Where the prefix cache covers the items, they travel without their data.
    stripped = strip_covered_mm_data(arrived, 384, uses_mrope=True)
    for received in (arrived, stripped):
        assert rope.positions(400, received, long_offset=131072)[1] == 0
        assert rope.positions(400, received[1:], long_offset=131072)[1] == 131072


def test_the_v2_runner_reads_the_same_rows() -> None:
    script = Path(__file__).with_name("rope_v2.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    long = 131072
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "prefill": [*range(long, long + 6), *range(5)],
        "chunk": [3, 4, long + 4, long + 5],
        "decode": [long + 6, 5],
        "resumed": list(range(8)),
    }


def test_a_long_prompt_gets_only_its_salt() -> None:
    prompt = {"type": "token", "prompt_token_ids": [1] * 5000}
    params = SamplingParams(max_tokens=7)
    assert plugin.in_mode(prompt, params, plugin._Note(), max_model_len=16384) == (
        {**prompt, "cache_salt": "rope-long:"},
        params,
    )


def app_that_asks_late(per_request: bool) -> FastAPI:
    """Routes that send the head of a stream before an engine is asked, or ask none."""
    app = FastAPI()
    app.add_middleware(plugin.RopeHeader)
    app.state.phi_vision_rope_per_request = per_request

    async def answer(asks: bool) -> AsyncIterator[str]:
        yield "created "
        await asyncio.sleep(0)
        if asks:
            plugin._note.get().modes.append("long")
        yield "answered "
        yield "ended"

    @app.post("/late")
    async def late() -> StreamingResponse:
        return StreamingResponse(answer(asks=True))

    @app.post("/never")
    async def never() -> StreamingResponse:
        return StreamingResponse(answer(asks=False))

    @app.post("/refused")
    async def refused() -> JSONResponse:
        return JSONResponse({"error": {}}, status_code=400)

    return app


@pytest.mark.parametrize(
    ("path", "per_request", "mode"),
    [("/late", True, "long"), ("/never", True, None), ("/refused", True, None), ("/never", False, None)],
)
def test_header_waits_for_the_mode_and_loses_nothing(path: str, per_request: bool, mode: str | None) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app_that_asks_late(per_request))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path)

    response = asyncio.run(ask())
    assert response.headers.get(HEADER) == mode
    assert response.text == ('{"error":{}}' if path == "/refused" else "created answered ended")
    assert response.status_code == (400 if path == "/refused" else 200)
