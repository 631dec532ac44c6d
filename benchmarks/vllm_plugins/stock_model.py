"""Stock vLLM on a checkpoint without the published remote code: its own model and processor classes.

vLLM's `Phi3VForCausalLM` needs two things that a small checkpoint does not give: the image processor
that the published checkpoint carries as remote code (here `FloatProcessor`, the same steps), and the
sizes of CLIP-L, which vLLM writes down as constants (here read from the config). All else is vLLM's:
padded float crops cross to the engine, and the tower runs on the padding too.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from phi_vision.model.config import Phi3VConfig
from phi_vision.model.geometry import num_image_tokens
from phi_vision.plugin_names import GENERAL_PLUGIN
from PIL import Image
from transformers import AutoConfig, BatchFeature
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.models import phi3v
from vllm.multimodal import MULTIMODAL_REGISTRY

from benchmarks.harness.float_reference import process


def register() -> None:
    """General plugin: vLLM calls it in each of its processes. Where phi-vision's own runs, it stays out."""
    if GENERAL_PLUGIN in (os.environ.get("VLLM_PLUGINS") or "").split(","):
        return
    AutoConfig.register(Phi3VConfig.model_type, Phi3VConfig, exist_ok=True)
    ModelRegistry.register_model("Phi3VForCausalLM", "stock_model:StockPhi3VForCausalLM")


class FloatProcessor:
    """What vLLM asks of the published processor, natively."""

    img_tokens = tuple(f"<|image_{i + 1}|>" for i in range(1000))

    def __init__(self, num_crops: int) -> None:
        self.num_crops = num_crops

    def __call__(
        self, images: list[Image.Image], text: str | None = None, return_tensors: str = "pt"
    ) -> BatchFeature:
        """Padded float crops, (num_crops + 1, 3, 336, 336), and the canvas size of each picture."""
        pixels, sizes = zip(*(process(image, self.num_crops) for image in images), strict=True)
        return BatchFeature({"pixel_values": torch.stack(pixels), "image_sizes": torch.tensor(sizes)})

    def calc_num_image_tokens_from_image_size(self, width: int, height: int) -> int:
        """Prompt tokens of a picture."""
        return num_image_tokens(width, height, self.num_crops)


class NativeProcessingInfo(phi3v.Phi3VProcessingInfo):
    """vLLM's, with the native processor in the place of the remote one."""

    def get_hf_processor(self, **kwargs: object) -> Any:
        """The processor for the engine's `num_crops`."""
        phi3v._IMAGE_TOKEN_ID = self.get_hf_config().image_token_id
        return FloatProcessor(self.ctx.get_merged_mm_kwargs(kwargs)["num_crops"])

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """Keyword arguments by the part of the processor that takes them."""
        return {"text_kwargs": set(), "images_kwargs": {"num_crops"}}


class _Embedding(phi3v.Phi3HDImageEmbedding):
    def reshape_hd_patches_2x2merge(self, features: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """vLLM's function of this name, for any width of the tower: the original asserts 1024."""
        count, _, dim = features.shape
        return (
            features.reshape(count, 12, 2, 12, 2, dim)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(count // (rows * columns), rows, columns, 12, 12, 4 * dim)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(count // (rows * columns), rows * 12, columns * 12, 4 * dim)
        )


@MULTIMODAL_REGISTRY.register_processor(
    phi3v.Phi3VMultiModalProcessor, info=NativeProcessingInfo, dummy_inputs=phi3v.Phi3VDummyInputsBuilder
)
class StockPhi3VForCausalLM(phi3v.Phi3VForCausalLM):
    """vLLM's class, its constants set from the config before it builds itself."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG = config.clip_config
        phi3v._IMAGE_TOKEN_ID = config.image_token_id
        phi3v.Phi3HDImageEmbedding = _Embedding
        super().__init__(vllm_config=vllm_config, prefix=prefix)
