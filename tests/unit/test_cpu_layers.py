"""Norms and rotary embedding by vLLM's CPU kernels: what they compute, against the same in float64."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from phi_vision.model import cpu_layers
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.spec import PHI_3_5_VISION
from torch import nn
from vllm.config import CompilationConfig, CompilationMode, VllmConfig, set_current_vllm_config
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as vllm_rope
from vllm.platforms import current_platform

from benchmarks.check_cuda.fake_model import build_model
from benchmarks.check_cuda.resolve import engine_config

current_platform.import_kernels()

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOKENS = (1, 5, 300)
HIDDEN, HEADS, HEAD_SIZE = 288, 3, 96
WINDOW = PHI_3_5_VISION.short_window  # tokens


def close(ours: torch.Tensor, exact: torch.Tensor) -> bool:
    """Within a few roundings."""
    step = 4 * torch.finfo(ours.dtype).eps
    return torch.allclose(ours.double(), exact, rtol=step, atol=step)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", TOKENS)
def test_in_eager_mode_vllm_builds_our_norm(
    dtype: torch.dtype, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(tokens)
    monkeypatch.delattr(RMSNorm, "forward_native")  # PyTorch's operations are not taken
    eager = VllmConfig(compilation_config=CompilationConfig(mode=CompilationMode.NONE))
    with set_current_vllm_config(eager):
        norm = RMSNorm(HIDDEN, eps=1e-5, dtype=dtype)
    assert isinstance(norm, cpu_layers.CPURMSNorm)
    norm.weight.data = torch.rand(HIDDEN).to(dtype) + 0.5
    x, residual = torch.randn(2, tokens, HIDDEN).to(dtype)

    def exact(values: torch.Tensor) -> torch.Tensor:
        values = values.double()
        return norm.weight.double() * values / (values.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    assert close(norm(x), exact(x))
    total = x + residual
    normed, summed = norm(x.clone(), residual.clone())
    assert torch.equal(summed, total)
    assert close(normed, exact(total))


def test_rows_that_do_not_follow_one_another_are_left_to_pytorch() -> None:
    with set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(mode=CompilationMode.NONE))):
        norm = RMSNorm(HIDDEN, eps=1e-5)
    joined = torch.randn(5, 2 * HIDDEN)
    part = joined[:, :HIDDEN]
    assert torch.equal(norm(part), norm(part.contiguous()))


@pytest.mark.parametrize("flags", [("--enforce-eager",), ()], ids=["eager", "compiled"])
def test_a_model_has_them_in_eager_mode_alone(flags: tuple[str, ...]) -> None:
    model = build_model(engine_config([str(DEMO_FOLDER), "--max-model-len", "4096", *flags]))
    cleanup_dist_env_and_memory()
    norms = {m._forward_method.__name__ for m in model.modules() if isinstance(m, RMSNorm)}
    assert norms == {"forward_cpu" if flags else "forward_native"}
    (rotary,) = (m for m in model.modules() if isinstance(m, vllm_rope.Phi3LongRoPEScaledRotaryEmbedding))
    assert ("forward" in vars(rotary)) == bool(flags)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("max_model_len", [WINDOW, 131072], ids=["short", "long"])
def test_rotates_as_vllm_does(
    dtype: torch.dtype, tokens: int, max_model_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(tokens)
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    server = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len))
    monkeypatch.setattr(vllm_rope, "get_current_vllm_config", lambda: server)
    rotary = vllm_rope.Phi3LongRoPEScaledRotaryEmbedding(
        head_size=HEAD_SIZE,
        rotary_dim=HEAD_SIZE,
        max_position_embeddings=config["max_position_embeddings"],
        original_max_position_embeddings=config["original_max_position_embeddings"],
        base=config["rope_theta"],
        is_neox_style=True,
        dtype=dtype,
        short_factor=config["rope_scaling"]["short_factor"],
        long_factor=config["rope_scaling"]["long_factor"],
    )
    table = rotary.long_short_cos_sin_cache
    # As the text model calls it: with parts of one tensor.
    joined = torch.randn(tokens, 3 * HEADS * HEAD_SIZE).to(dtype)
    positions = torch.randint(0, WINDOW, (tokens,))
    query, key, value = joined.double().split(HEADS * HEAD_SIZE, dim=-1)
    rotary.long_short_cos_sin_cache = table.double()
    exact = rotary(positions, query, key)

    rotary.long_short_cos_sin_cache = table
    cpu_layers.use_rotary_kernel(nn.ModuleList([rotary]))
    monkeypatch.delattr(type(rotary), "forward")  # vLLM's operations are not taken
    query, key, untouched = joined.split(HEADS * HEAD_SIZE, dim=-1)
    for ours, theirs in zip(rotary(positions, query, key), exact, strict=True):
        assert close(ours, theirs)
    assert torch.equal(untouched.double(), value)
