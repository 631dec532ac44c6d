"""The sizes of a checkpoint, read from its config.json. No torch, no transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi_vision.spec import PHI_3_5_VISION, Dimensions


def clip_layers_used(num_hidden_layers: int, layer_idx: int = -2) -> int:
    """Layers of the tower up to the one whose output is the image feature: the last but one."""
    return layer_idx + 1 + (num_hidden_layers if layer_idx < 0 else 0)


def read_dimensions(config: Mapping[str, Any]) -> Dimensions:
    """Take them from the contents of a `config.json`.

    Raises:
        KeyError: a key that every Phi-3-vision config has is missing.
    """
    img_processor = config.get("img_processor") or {}
    tower = {**PHI_3_5_VISION.clip, **img_processor.get("vision_config", {})}
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
        vision_image_px=int(tower["image_size"]),
    )


def read_config_json(folder: Path) -> Dimensions:
    """The dimensions of the checkpoint in `folder`.

    Raises:
        OSError, ValueError, KeyError: no readable `config.json` of a Phi-3-vision model there.
    """
    return read_dimensions(json.loads((folder / "config.json").read_text(encoding="utf-8")))
