"""What vLLM compiles of the model, compiled as far as that goes without a card.

vLLM compiles the text model, neither the picture tower nor the logits. Dynamo traces it as one graph, vLLM
splits the graph at each attention, and each piece goes through AOTAutograd and the passes of Inductor and of
vLLM. It ends where Inductor makes kernels of a piece, which takes the card's properties and times kernels on
it. So found here: a graph break, an operator without a fake implementation, `.item()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.check_cuda.fake_model import FAKE, can_pack_weights, linear_kernel, pack_weights

# The first has no residual to add, all after it are alike: two have every piece that 32 have.
_LAYERS = 2


class _KernelsAreNext(BaseException):
    """Not an `Exception`, which Inductor would report as a failure of its own."""


def traced(model: Any, config: Any) -> str:
    """How far the compilation of `model` came; its text model has two layers after that.

    Raises:
        Exception: the start would fail on the card, with the same words.
    """
    from vllm.config import CompilationMode

    if config.compilation_config.mode == CompilationMode.NONE:
        return "eager"
    if not can_pack_weights(model):
        return f"not: {linear_kernel(model)} packs weights on the card"
    text = model.language_model.model
    text.layers, text.end_layer = text.layers[:_LAYERS], _LAYERS
    pack_weights(model, config)
    pieces = compile_until_kernels(model, config)
    if not pieces:
        raise RuntimeError("vLLM compiled nothing of the model")
    return f"{pieces} pieces"


def compile_until_kernels(model: Any, config: Any) -> int:
    """Call the model once, as vLLM's profile run does. Returns the number of pieces that came to the end."""
    from torch._inductor.fx_passes import joint_graph
    from vllm.compilation.counter import compilation_counter
    from vllm.config import set_current_vllm_config
    from vllm.forward_context import set_forward_context

    tokens, hidden = config.scheduler_config.max_num_batched_tokens, config.model_config.get_hidden_size()
    with FAKE, torch.device(config.device_config.device):
        rows = (3, tokens) if config.model_config.uses_mrope else (tokens,)
        positions = torch.empty(rows, dtype=torch.int64)
        embeddings = torch.empty(tokens, hidden, dtype=config.model_config.dtype)
    joint_graph.lazy_init(embeddings.device)  # in inference mode, as below, it would ask for the card
    torch._dynamo.reset()
    before = compilation_counter.num_backend_compilations
    with (
        torch.inference_mode(),
        set_current_vllm_config(config),
        set_forward_context(None, config, num_tokens=tokens),
        _until_kernels(),
        _without_a_run(model.language_model.model),
    ):
        model(None, positions, None, embeddings)
    return compilation_counter.num_backend_compilations - before


@contextmanager
def _until_kernels() -> Iterator[None]:
    """Have Inductor leave each piece where it would make kernels of it."""
    from torch._inductor import compile_fx
    from vllm.compilation.compiler_interface import InductorStandaloneAdaptor

    compile_piece = InductorStandaloneAdaptor.compile

    def compile_in_part(self: Any, graph: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        if any(node.target == "item" for node in graph.graph.nodes):
            raise RuntimeError("compiled code reads a tensor's value on the host, which no CUDA graph can")
        try:
            compile_piece(self, graph, *args, **kwargs)
        except _KernelsAreNext:
            return graph, None
        raise RuntimeError("Inductor made no kernels of a piece")

    with (
        patch.object(InductorStandaloneAdaptor, "compile", compile_in_part),
        patch.object(compile_fx, "GraphLowering", side_effect=_KernelsAreNext),
        # It would compute constants on the card.
        torch._inductor.config.patch(joint_graph_constant_folding=False),
    ):
        yield


@contextmanager
def _without_a_run(text: Any) -> Iterator[None]:
    """vLLM calls what it has compiled at once: here that does nothing."""
    aot_compile = text.aot_compile

    def compile_only(*args: Any, **kwargs: Any) -> Callable[..., None]:
        aot_compile(*args, **kwargs)
        return lambda *args, **kwargs: None

    with patch.object(text, "aot_compile", compile_only):
        yield
