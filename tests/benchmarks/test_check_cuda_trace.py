"""The compilation of `make check-cuda` reports what would stop it on a card. On vLLM's CPU build.

Tensors are on "meta" instead of a card, for which vLLM's CPU build prepares no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from phi_vision.planning.checkpoint import DEMO_FOLDER
from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
from vllm.config import CompilationMode
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import (
    Phi3LongRoPEScaledRotaryEmbedding as Rotary,
)

from benchmarks.check_cuda.fake_model import build_model
from benchmarks.check_cuda.resolve import engine_config
from benchmarks.check_cuda.trace import traced

pytestmark = pytest.mark.slow

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # positions and a query: another query

FLAGS = ("--max-model-len", "4096", "--hf-overrides.longrope_per_request", "true")
# Where a graph for a card is split.
ATTENTION = ["vllm::unified_attention_with_output", "vllm::unified_kv_cache_update"]


def branches_by_a_value(positions: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return query + 1 if positions.max() > 4096 else query


def prints_a_value(positions: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    print(positions)
    return query


def reads_a_value(positions: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return query + positions.max().item()


@torch.library.custom_op("phi_vision_test::double", mutates_args=())
def double(query: torch.Tensor) -> torch.Tensor:
    return query * 2


def calls_what_has_no_fake_implementation(positions: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return double(query)


@pytest.fixture(scope="module")
def compile_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Compiles the demo's text model as far as the check does."""
    folder = tmp_path_factory.mktemp("compiled")

    def compile_as_on_a_card() -> str:
        config = engine_config([str(DEMO_FOLDER), *FLAGS])
        config.compilation_config.mode = CompilationMode.VLLM_COMPILE
        config.compilation_config.splitting_ops = ATTENTION
        config.device_config.device = torch.device("meta")
        return traced(build_model(config), config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(folder))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))  # vLLM sets it for good
        # It names operators that only the CUDA build has.
        patch.setattr(FixFunctionalizationPass, "__call__", lambda self, graph: None)
        yield compile_as_on_a_card
    cleanup_dist_env_and_memory()


def test_the_text_model_compiles_in_a_piece_before_between_and_after_attention(
    compile_demo: Callable[[], str],
) -> None:
    assert compile_demo() == "3 pieces"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (branches_by_a_value, "Data-dependent branching"),
        (prints_a_value, "builtin operator `print`"),
        (reads_a_value, "reads a tensor's value on the host"),
        (calls_what_has_no_fake_implementation, "phi_vision_test.double"),
    ],
)
def test_what_a_rotary_module_must_not_do_stops_it(
    compile_demo: Callable[[], str], monkeypatch: pytest.MonkeyPatch, change: Change, words: str
) -> None:
    forward = Rotary.forward

    def changed(
        self: Rotary, positions: torch.Tensor, query: torch.Tensor, *rest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return forward(self, positions, change(positions, query), *rest)

    monkeypatch.setattr(Rotary, "forward", changed)
    with pytest.raises(Exception, match=words):
        compile_demo()
