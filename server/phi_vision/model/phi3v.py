"""Phi-3.5-vision for vLLM: canvases in, image embeddings and text out.

Beside vLLM's own class this one takes uint8 canvases instead of padded float crops, runs the tower
on real crops only, and reads the tower's size and the image token from the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.models.clip import CLIPVisionModel
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.phi3v import Phi3VForCausalLM
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from phi_vision.model import rope_table
from phi_vision.model.config import Phi3VConfig
from phi_vision.model.geometry import CROP_PX
from phi_vision.model.hd import normalization, tile_canvas
from phi_vision.model.processor import HDDummyInputsBuilder, HDMultiModalProcessor, HDProcessingInfo

# Of more, tensors are so large that the C library maps fresh memory for each, which the system clears first.
CROPS_AT_ONCE_ON_CPU = 2


class HDImageEmbedding(nn.Module):
    """CLIP tower, 2 x 2 merge, separators and projector: canvases to language-model embeddings."""

    def __init__(self, config: Phi3VConfig, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.img_processor = CLIPVisionModel(
            config.clip_config,
            quant_config=quant_config,
            num_hidden_layers_override=config.clip_layers_used,
            prefix=f"{prefix}.img_processor",
        )
        merged_dim = 4 * config.clip_config.hidden_size
        # On the model's device once, instead of a copy to it (and a wait for it) several times a picture.
        self.register_buffer("mean_std", normalization(), persistent=False)
        self.glb_GN = nn.Parameter(torch.empty(1, 1, merged_dim))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, merged_dim))
        self.img_projection = nn.Sequential(
            nn.Linear(merged_dim, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )

    def forward(self, canvases: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Embed a batch of pictures with one run of the tower over all their crops.

        Args:
            canvases: uint8, (3, H, W) each.

        Returns:
            (num_image_tokens, hidden) each.
        """
        crops = [tile_canvas(canvas, self.mean_std) for canvas in canvases]  # (1 + n, 3, 336, 336) each
        counts = [len(crop) for crop in crops]
        features = self._features(torch.cat(crops).to(self.glb_GN.dtype))
        merged = [
            self._arrange(of_picture, canvas.shape[1] // CROP_PX, canvas.shape[2] // CROP_PX)
            for of_picture, canvas in zip(features.split(counts), canvases, strict=True)
        ]
        projected = self.img_projection(torch.cat(merged))
        return list(projected.split([len(tokens) for tokens in merged]))

    def _features(self, crops: torch.Tensor) -> torch.Tensor:
        """(crops, 3, 336, 336) -> (crops, 576, dim), without the class token."""
        at_once = CROPS_AT_ONCE_ON_CPU if crops.device.type == "cpu" else len(crops)
        return torch.cat([self.img_processor(some)[:, 1:] for some in crops.split(at_once)])

    def _arrange(self, features: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(1 + rows * columns, 576, dim), global view first -> (tokens, 4 * dim), crops first."""
        crops = self._grid(features[1:], rows, columns)
        global_view = self._grid(features[:1], 1, 1)
        return torch.cat([crops, self.glb_GN[0], global_view])

    def _grid(self, features: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(rows * columns, 576, dim) -> (tokens, 4 * dim): token rows of the canvas, each with its end."""
        side = int(features.shape[1] ** 0.5)  # patches, 24
        half = side // 2
        dim = features.shape[2]
        grid = (
            features.reshape(rows, columns, half, 2, half, 2, dim)
            .permute(0, 2, 1, 4, 3, 5, 6)  # (rows, 12, columns, 12, 2, 2, dim)
            .reshape(rows * half, columns * half, 4 * dim)
        )
        ends = self.sub_GN[0].expand(rows * half, 1, 4 * dim)
        return torch.cat([grid, ends], dim=1).flatten(0, 1)


@MULTIMODAL_REGISTRY.register_processor(
    HDMultiModalProcessor, info=HDProcessingInfo, dummy_inputs=HDDummyInputsBuilder
)
class PhiVisionForCausalLM(Phi3VForCausalLM, SupportsMRoPE):
    """vLLM's `Phi3VForCausalLM` on our image path, with LongRoPE per request where the config says so."""

    # vLLM's mapping, but the tower's copy of the token embedding is dropped: it is the text model's own.
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.vision_embed_tokens.wte": None,
            "model.vision_embed_tokens.": "vision_embed_tokens.",
            "lm_head.": "language_model.lm_head.",
            "model.": "language_model.model.",
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)  # vLLM's own __init__ would build a full-size tower first
        config = vllm_config.model_config.hf_config
        self.config = config
        self.multimodal_config = vllm_config.model_config.multimodal_config
        self.image_token_id = config.image_token_id
        if current_platform.is_cpu():
            from phi_vision.model import cpu_layers, cpu_seeds

            cpu_seeds.install()
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_embed_tokens = HDImageEmbedding(
                config, vllm_config.quant_config, maybe_prefix(prefix, "model.vision_embed_tokens")
            )
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, prefix="", architectures=["LlamaForCausalLM"]
            )
        if current_platform.is_cpu() and vllm_config.model_config.enforce_eager:
            cpu_layers.use_rotary_kernel(self.language_model)
        self._long_offset = 0
        if config.longrope_per_request:
            self._long_offset = rope_table.build_dual_rope_table(self.language_model)
            if not vllm_config.use_v2_model_runner:
                rope_table.refresh_positions_on_resumption()
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @property
    def embed_tokens(self) -> nn.Module:
        """The text model's token embedding, under the name that vLLM's class uses."""
        return self.language_model.model.embed_tokens

    def embed_multimodal(
        self, canvas: torch.Tensor | Sequence[torch.Tensor] | None = None, **kwargs: object
    ) -> list[torch.Tensor]:
        """Embed the pictures of one step; `canvas` holds one uint8 (3, H, W) tensor a picture."""
        return [] if canvas is None else self.vision_embed_tokens(list(canvas))

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        """Where in the rotary table a request reads: see `rope_table.positions`."""
        return rope_table.positions(len(input_tokens), self._long_offset)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        """Hidden states of one step; `positions` is (tokens,), or (3, tokens) with equal rows."""
        if positions.ndim == 2:
            positions = positions[0]
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load a checkpoint in the published naming."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
