"""The models that can be served, one row each: names, sizes and defaults. Imports nothing of ours.

The constants of the HD transform (crops of 336 pixels, 144 tokens each) stand with its arithmetic in
`model.geometry`: all models of this architecture share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a checkpoint that decide about memory; the vision tower's begin with `vision_`."""

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    max_position: int  # tokens
    original_max_position: int  # tokens, before LongRoPE
    vision_layers: int  # as many as are run
    vision_hidden: int
    vision_mlp: int
    vision_patch_px: int
    vision_image_px: int  # side of a crop

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
        return (self.vision_image_px // self.vision_patch_px) ** 2 + 1

    @property
    def _heads(self) -> int:
        return self.hidden // self.head_dim


@dataclass(frozen=True)
class ModelSpec:
    """A published model and how it is served.

    Args:
        hub_id: its repository on the Hugging Face hub.
        served_name: its name in the API.
        architecture: the name in its config.json under which vLLM finds the model class.
        dimensions: as in its config.json, so that memory can be planned before it is downloaded.
        clip: the vision tower, in the keys of CLIP's configuration. The published config.json names the tower
            but leaves its sizes to the remote code.
        image_token_id: the token that stands for a picture's embeddings.
        stop_tokens: each ends an answer.
        num_crops: crops of the only picture of a request, as the model card advises.
        num_crops_multi: crops of each of several pictures.
        max_num_crops: the most that the model was trained with.
        chat_template: a Jinja file.
    """

    hub_id: str
    served_name: str
    architecture: str
    dimensions: Dimensions
    clip: Mapping[str, Any]
    image_token_id: int
    stop_tokens: tuple[str, ...]
    num_crops: int
    num_crops_multi: int
    max_num_crops: int
    chat_template: Path

    @property
    def demo_name(self) -> str:
        """The name in the API of the demo, a small checkpoint of the same architecture."""
        return f"{self.served_name}-demo"

    @property
    def max_model_len(self) -> int:
        """Context in tokens that the model was trained for."""
        return self.dimensions.max_position

    @property
    def short_window(self) -> int:
        """Tokens up to which LongRoPE's short factors are used."""
        return self.dimensions.original_max_position


_CLIP_L_14_336: Mapping[str, Any] = {
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}

PHI_3_5_VISION = ModelSpec(
    hub_id="microsoft/Phi-3.5-vision-instruct",
    served_name="phi-3.5-vision",
    architecture="Phi3VForCausalLM",
    dimensions=Dimensions(
        layers=32,
        hidden=3072,
        kv_heads=32,
        head_dim=96,
        mlp=8192,
        vocab=32064,
        max_position=131072,
        original_max_position=4096,
        vision_layers=_CLIP_L_14_336["num_hidden_layers"] - 1,  # the last but one gives the image feature
        vision_hidden=_CLIP_L_14_336["hidden_size"],
        vision_mlp=_CLIP_L_14_336["intermediate_size"],
        vision_patch_px=_CLIP_L_14_336["patch_size"],
        vision_image_px=_CLIP_L_14_336["image_size"],
    ),
    clip=_CLIP_L_14_336,
    image_token_id=32044,
    stop_tokens=("<|end|>", "<|endoftext|>", "<|assistant|>"),
    num_crops=16,
    num_crops_multi=4,
    max_num_crops=16,
    chat_template=Path(__file__).parent / "model" / "chat_template.jinja",
)
