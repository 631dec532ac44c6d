"""The sizes of a Phi-3.5-vision checkpoint that decide about memory. No torch, no transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_vision.model.geometry import CROP_PX

# CLIP ViT-L/14-336. The published config names the tower but leaves its sizes to the remote code.
CLIP_L_14_336: Mapping[str, Any] = {
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": CROP_PX,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}


def clip_layers_used(num_hidden_layers: int, layer_idx: int = -2) -> int:
    """Layers of the tower up to the one whose output is the image feature: the last but one."""
    return layer_idx + 1 + (num_hidden_layers if layer_idx < 0 else 0)


@dataclass(frozen=True)
class Dimensions:
    """Counts and widths; the tower's begin with `vision_`."""

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    max_position: int  # tokens
    original_max_position: int  # tokens, before longrope
    vision_layers: int  # as many as are run
    vision_hidden: int
    vision_mlp: int
    vision_patch_px: int

    @property
    def linear_params(self) -> int:
        """Parameters of the text layers' matrices, the part that weight quantization shrinks."""
        attention = self.hidden * self.head_dim * (2 * self._heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def other_text_params(self) -> int:
        """Token embedding, output head and norms: never quantized."""
        return 2 * self.vocab * self.hidden + (2 * self.layers + 1) * self.hidden

    @property
    def vision_params(self) -> int:
        """Tower and projector."""
        dim, mlp = self.vision_hidden, self.vision_mlp
        layer = 4 * (dim * dim + dim) + (2 * dim * mlp + mlp + dim) + 4 * dim
        embeddings = dim * (1 + 3 * self.vision_patch_px**2 + self.vision_positions) + 2 * dim
        projector = 4 * dim * self.hidden + self.hidden**2 + 2 * self.hidden + 8 * dim
        return self.vision_layers * layer + embeddings + projector

    @property
    def vision_positions(self) -> int:
        """Patches of a crop and the class token."""
        return (CROP_PX // self.vision_patch_px) ** 2 + 1

    @property
    def _heads(self) -> int:
        return self.hidden // self.head_dim


def read_dimensions(config: Mapping[str, Any]) -> Dimensions:
    """Take them from the contents of a `config.json`.

    Raises:
        KeyError: a key that every Phi-3-vision config has is missing.
    """
    img_processor = config.get("img_processor") or {}
    tower = {**CLIP_L_14_336, **img_processor.get("vision_config", {})}
    heads = int(config["num_attention_heads"])
    max_position = int(config["max_position_embeddings"])
    return Dimensions(
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config["hidden_size"]) // heads,
        mlp=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        max_position=max_position,
        original_max_position=int(config.get("original_max_position_embeddings") or max_position),
        vision_layers=clip_layers_used(tower["num_hidden_layers"], img_processor.get("layer_idx", -2)),
        vision_hidden=int(tower["hidden_size"]),
        vision_mlp=int(tower["intermediate_size"]),
        vision_patch_px=int(tower["patch_size"]),
    )


def read_config_json(folder: Path) -> Dimensions:
    """The dimensions of the checkpoint in `folder`.

    Raises:
        OSError, ValueError, KeyError: no readable `config.json` of a Phi-3-vision model there.
    """
    return read_dimensions(json.loads((folder / "config.json").read_text(encoding="utf-8")))


# microsoft/Phi-3.5-vision-instruct, so that its memory can be planned before it is downloaded.
PHI_3_5_VISION = read_dimensions(
    {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "vocab_size": 32064,
    }
)
