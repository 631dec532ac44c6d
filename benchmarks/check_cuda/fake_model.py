"""The model of fake tensors: each has a shape, a type and the card as its device, and no memory.

Operators run on them by their fake implementations, which say the shape of what they return. No kernel runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

# One for all models: tensors of two do not go together, and vLLM keeps some. Real ones are constants.
FAKE = FakeTensorMode(allow_non_fake_inputs=True)

# It packs weights by what an extension says of the card, which does not load without a whole driver.
_PACKED_ON_THE_CARD = "HummingMxFp4LinearKernel"


def build_model(config: Any) -> Any:
    """The model with its quantization and attention, as vLLM's configuration asks for it."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.model_executor.layers.rotary_embedding import _ROPE_DICT
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    _ROPE_DICT.clear()  # a start is a process of its own: it finds no rotary module of another
    with set_current_vllm_config(config):
        if not parallel_state.model_parallel_is_initialized():
            store = f"file://{tempfile.mkdtemp()}/store"
            parallel_state.init_distributed_environment(1, 0, store, 0, "gloo")
            parallel_state.ensure_model_parallel_initialized(1, 1)
        device = torch.device(config.device_config.device)
        with FAKE, set_default_torch_dtype(config.model_config.dtype), device:
            return initialize_model(vllm_config=config)


def linear_kernel(model: Any) -> str:
    """The class that multiplies the text layers' weights."""
    layer = model.language_model.model.layers[0].self_attn.qkv_proj
    method = layer.quant_method
    kernel = getattr(method, "fp8_linear", None) or getattr(method, "kernel", method)
    return type(kernel).__name__


def can_pack_weights(model: Any) -> bool:
    """Whether `pack_weights` goes without a card."""
    return linear_kernel(model) != _PACKED_ON_THE_CARD


def pack_weights(model: nn.Module, config: Any) -> None:
    """Quantize and pack the weights for the kernels that take them, as vLLM does after loading."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_processing
    from vllm.model_executor.model_loader.utils import process_weights_after_loading
    from vllm.utils.torch_utils import set_default_torch_dtype

    device, dtype = torch.device(config.device_config.device), config.model_config.dtype
    with set_current_vllm_config(config), FAKE, set_default_torch_dtype(dtype), _without_kernels():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if weight.is_meta:  # vLLM quantizes it; its own copy of a fake tensor would stay on "meta"
                    empty = torch.empty_like(weight, device=device)
                    setattr(module, name, nn.Parameter(empty, requires_grad=False))
        finalize_layerwise_processing(model, config.model_config)
        process_weights_after_loading(model, config.model_config, device)


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Triton starts nothing, and functions that vLLM has compiled are called as they are written."""
    if torch.version.cuda is None:
        yield
        return
    from triton.runtime.jit import JITFunction

    _fake_deep_gemm()
    with torch.compiler.set_stance("force_eager"), patch.object(JITFunction, "run", lambda *a, **k: None):
        yield


def _fake_deep_gemm() -> None:
    """Its layout of scales has no fake implementation: vLLM calls it outside of compiled code only."""
    operator = "transform_sf_into_required_layout"
    if hasattr(torch.ops.deep_gemm, operator):
        torch.library.register_fake(f"deep_gemm::{operator}", _same_scales, allow_override=True)


def _same_scales(sf: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    """On Hopper those of blocks stay as they are."""
    return torch.empty_like(sf)
