"""Phi-3.5-vision's architecture in plain PyTorch, its parameters named as in the published checkpoint.

Written for training: cells of the picture can be left out, several questions share one picture, and
two helpers that are no part of the checkpoint teach it faster. Auxiliary heads say what each cell
shows. And one attention head is told where to look: at the cell that shows what is said next.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo_training.labels import CELLS, COLOR_CLASSES, GLYPH_CLASSES, GLYPH_SLOTS, KINDS
from demo_training.samples import Batch
from demo_training.tower import Tower

_LOOKING_LAYER = 2  # its first head looks at what is said next
_TOWER = "model.vision_embed_tokens.img_processor.vision_model."


class TextLayer(nn.Module):
    """A Llama layer with Phi-3's joined matrices."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(dim, eps=1e-5) for _ in range(2))
        self.self_attn = nn.ModuleDict(
            {"qkv_proj": nn.Linear(dim, 3 * dim, bias=False), "o_proj": nn.Linear(dim, dim, bias=False)}
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_up_proj": nn.Linear(dim, 2 * mlp, bias=False),
                "down_proj": nn.Linear(mlp, dim, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, dim) to the same, and the attention, (batch, heads, tokens, tokens).

        `mask` is (batch, 1, tokens, tokens), added to the scores.
        """
        batch, tokens, _ = x.shape
        qkv = self.self_attn["qkv_proj"](self.input_layernorm(x))
        q, k, v = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (_rotate(q, cos, sin) * q.shape[-1] ** -0.5) @ _rotate(k, cos, sin).transpose(-1, -2)
        attention = (scores + mask).softmax(-1).to(v.dtype)  # torch's own kernel is slower backwards on a CPU
        mixed = attention @ v
        x = x + self.self_attn["o_proj"](mixed.transpose(1, 2).reshape(x.shape))
        gate, up = self.mlp["gate_up_proj"](self.post_attention_layernorm(x)).chunk(2, dim=-1)
        return x + self.mlp["down_proj"](F.silu(gate) * up), attention


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (first half, second half) of each head by the position's angles."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class DemoNetwork(nn.Module):
    """Tower, projector and text model; `state_dict` holds the published names and `aux.*`."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Build it with the sizes of a `config.json`."""
        super().__init__()
        self.config = config
        dim, vision = config["hidden_size"], config["img_processor"]["vision_config"]
        merged = 4 * vision["hidden_size"]

        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], dim)
        self.model.layers = nn.ModuleList(
            TextLayer(dim, config["num_attention_heads"], config["intermediate_size"])
            for _ in range(config["num_hidden_layers"])
        )
        self.model.norm = nn.RMSNorm(dim, eps=1e-5)
        self.lm_head = nn.Linear(dim, config["vocab_size"], bias=False)

        image = self.model.vision_embed_tokens = nn.Module()
        image.glb_GN = nn.Parameter(torch.randn(1, 1, merged) * 0.5)
        image.sub_GN = nn.Parameter(torch.randn(1, 1, 1, merged) * 0.5)
        image.img_projection = nn.Sequential(nn.Linear(merged, dim), nn.GELU(), nn.Linear(dim, dim))
        image.img_processor = nn.Module()
        image.img_processor.vision_model = Tower(vision["hidden_size"], vision["intermediate_size"])
        self.aux = nn.ModuleDict(
            {
                "glyphs": nn.Linear(dim, GLYPH_SLOTS * GLYPH_CLASSES),
                "kind": nn.Linear(dim, len(KINDS)),
                "color": nn.Linear(dim, COLOR_CLASSES),
                "row": nn.Linear(dim, CELLS),
                "column": nn.Linear(dim, CELLS),
            }
        )
        _initialize(self)

    @property
    def tower(self) -> Tower:
        """The vision tower."""
        return self.model.vision_embed_tokens.img_processor.vision_model

    def image_table(self, batch: Batch) -> Tensor:
        """(cells + 2, dim): every cell of the batch's views, then the row separator and the global one."""
        image = self.model.vision_embed_tokens
        patches = batch.patches.to(_compute_dtype(batch.patches.device, self.lm_head.weight))
        features = self.tower(patches)  # (views, 24, 24, vision dim)
        views, dim = len(features), features.shape[-1]
        merged = features.view(views, CELLS, 2, CELLS, 2, dim).transpose(2, 3).reshape(-1, 4 * dim)
        separators = torch.cat([image.sub_GN.view(1, -1), image.glb_GN.view(1, -1)]).to(merged.dtype)
        return image.img_projection(torch.cat([merged, separators]))

    def hidden(self, batch: Batch, table: Tensor) -> tuple[Tensor, Tensor]:
        """The text model's last states and where its told head looks.

        Returns:
            (batch, tokens, dim), and attention, (batch, tokens, tokens).
        """
        x = self.model.embed_tokens(batch.tokens)
        shown = batch.features >= 0
        x = torch.where(shown[..., None], table.float()[batch.features.clamp(min=0)], x)
        cos, sin = self._rotary(batch.positions, batch.long_rope)
        order = torch.arange(x.shape[1], device=x.device)
        own = (batch.branches[:, None, :] == 0) | (batch.branches[:, None, :] == batch.branches[:, :, None])
        visible = (order[:, None] >= order[None, :]) & own
        dtype = _compute_dtype(x.device, x)
        mask = torch.zeros(visible.shape, dtype=dtype, device=x.device).masked_fill(~visible, -1e4)[:, None]
        looked = x.new_empty(0)
        for number, layer in enumerate(self.model.layers):
            x, attention = layer(x, cos, sin, mask)
            if number == _LOOKING_LAYER:
                looked = attention[:, 0]
        return self.model.norm(x), looked

    def _rotary(self, positions: Tensor, long: bool) -> tuple[Tensor, Tensor]:
        """cos and sin, (batch, 1, tokens, head_dim / 2) each, with LongRoPE's factors and scale."""
        config = self.config
        scaling = config["rope_scaling"]
        factors = torch.tensor(scaling["long_factor" if long else "short_factor"], device=positions.device)
        exponent = torch.arange(len(factors), device=positions.device) / len(factors)
        angle = positions[:, None, :, None].float() / (factors * config["rope_theta"] ** exponent)
        original = config["original_max_position_embeddings"]
        stretch = config["max_position_embeddings"] / original
        scale = math.sqrt(1 + math.log(stretch) / math.log(original))
        return angle.cos() * scale, angle.sin() * scale

    def published(self) -> dict[str, Tensor]:
        """The checkpoint: published names, bfloat16."""
        weights = {
            name: value for name, value in self.state_dict().items() if not name.startswith(("aux.", _TOWER))
        }
        weights |= {_TOWER + name: value for name, value in self.tower.published().items()}
        for name, scale in self._feature_scales().items():
            weights[name] = weights[name] * scale
        return {name: value.detach().cpu().bfloat16().contiguous() for name, value in weights.items()}

    def load_published(self, weights: dict[str, Tensor]) -> None:
        """Take over a checkpoint of `published`; the auxiliary heads stay as they are."""
        own = self.state_dict()
        taken = {name: value.float() for name, value in weights.items() if name in own}
        for name, scale in self._feature_scales().items():
            taken[name] = taken[name] / scale
        self.load_state_dict(own | taken)

    def _feature_scales(self) -> dict[str, Tensor]:
        """What parameters are multiplied by in the checkpoint, where the code keeps its size."""
        dim = self.config["img_processor"]["vision_config"]["hidden_size"]
        scale = self.tower.feature_scale(dim).repeat(4)
        image = "model.vision_embed_tokens."
        return {
            f"{image}img_projection.0.weight": scale,
            f"{image}glb_GN": 1 / scale,
            f"{image}sub_GN": 1 / scale,
        }


def _compute_dtype(device: torch.device, like: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else like.dtype


def _initialize(network: DemoNetwork) -> None:
    """Normal weights by fan-in; the tower sees to itself."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith(_TOWER):
            residual = name.endswith(("o_proj", "down_proj"))
            nn.init.normal_(module.weight, std=(0.4 if residual else 0.9) * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(network.model.embed_tokens.weight, std=0.5)
