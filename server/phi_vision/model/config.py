"""The configuration of a Phi-3.5-vision checkpoint, read without running the checkpoint's own code."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, Phi3Config

from phi_vision.model.dimensions import clip_layers_used
from phi_vision.spec import PHI_3_5_VISION


class Phi3VConfig(Phi3Config):
    """`model_type: phi3_v`: Phi-3's text model with a CLIP tower and an HD projector in front.

    Two keys that the published config does not have let a checkpoint of the same architecture be
    small: `image_token_id`, and `img_processor["vision_config"]` (CLIP's own keys). A third is set by
    the server: `longrope_per_request` (see `rope_table`).
    """

    model_type = "phi3_v"

    image_token_id: int = PHI_3_5_VISION.image_token_id
    img_processor: dict[str, Any] | None = None
    embd_layer: dict[str, Any] | None = None
    longrope_per_request: bool = False

    @property
    def mrope_section(self) -> list[int] | None:
        """Rotary pairs for each row of positions; vLLM asks the model for positions where this is set."""
        pairs = self.hidden_size // self.num_attention_heads // 2
        return [pairs, 0, 0] if self.longrope_per_request else None

    @property
    def clip_config(self) -> CLIPVisionConfig:
        """Sizes of the vision tower."""
        img_processor = self.img_processor or {}
        return CLIPVisionConfig(**{**PHI_3_5_VISION.clip, **img_processor.get("vision_config", {})})

    @property
    def clip_layers_used(self) -> int:
        """Layers up to the one whose output is the image feature: the last but one."""
        layer_idx = (self.img_processor or {}).get("layer_idx", -2)
        return clip_layers_used(self.clip_config.num_hidden_layers, layer_idx)
