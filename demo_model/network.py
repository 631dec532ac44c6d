"""Phi-3.5-vision's architecture in plain PyTorch, its parameters named as in the published checkpoint.

Written for training: cells of the picture can be left out, several questions share one picture, and
auxiliary heads say what each cell shows. They are not part of the checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo_model.labels import COLOR_CLASSES, GLYPH_CLASSES, GLYPH_SLOTS, SHAPE_CLASSES
from demo_model.samples import Batch


class VisionAttention(nn.Module):
    """CLIP's attention, each crop for itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(views, patches, dim) to the same."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class VisionLayer(nn.Module):
    """A pre-norm layer of CLIP with its quick GELU."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.self_attn = VisionAttention(dim, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, mlp), "fc2": nn.Linear(mlp, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """(views, patches, dim) to the same."""
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))


class VisionTower(nn.Module):
    """CLIP's vision model up to its last layer but one, whose output is the image feature."""

    def __init__(self, dim: int, heads: int, mlp: int, layers: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.zeros(dim))
        self.embeddings.patch_embedding = nn.Conv2d(3, dim, 14, stride=14, bias=False)
        self.embeddings.position_embedding = nn.Embedding(577, dim)
        self.pre_layrnorm = nn.LayerNorm(dim)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(VisionLayer(dim, heads, mlp) for _ in range(layers))
        self.post_layernorm = nn.LayerNorm(dim)  # published, unused

    def forward(self, patches: Tensor) -> Tensor:
        """(views, 144, 4, 588), cell by cell, to (views, 144, 4 * dim): the 2 x 2 merge."""
        views, cells = patches.shape[:2]
        corner = torch.arange(0, 576, 2, device=patches.device).view(24, 12)[::2].flatten()  # (144,)
        index = corner[:, None] + torch.tensor([0, 1, 24, 25], device=patches.device)  # (144, 4)
        positions = self.embeddings.position_embedding.weight
        x = F.linear(patches, self.embeddings.patch_embedding.weight.flatten(1)) + positions[index + 1]
        first = (self.embeddings.class_embedding + positions[0]).expand(views, 1, -1)
        x = self.pre_layrnorm(torch.cat([first, x.flatten(1, 2)], dim=1))
        for layer in self.encoder.layers[:-1]:
            x = layer(x)
        return x[:, 1:].reshape(views, cells, -1)


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same; `mask` is (batch, 1, tokens, tokens), added to the scores."""
        batch, tokens, _ = x.shape
        qkv = self.self_attn["qkv_proj"](self.input_layernorm(x))
        q, k, v = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = _attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, mask)
        x = x + self.self_attn["o_proj"](mixed.transpose(1, 2).reshape(x.shape))
        gate, up = self.mlp["gate_up_proj"](self.post_attention_layernorm(x)).chunk(2, dim=-1)
        return x + self.mlp["down_proj"](F.silu(gate) * up)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention; on a CPU written out, because torch's own kernel is slower backwards there."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1).to(v.dtype) @ v


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
        image.img_processor.vision_model = VisionTower(
            vision["hidden_size"],
            vision["num_attention_heads"],
            vision["intermediate_size"],
            vision["num_hidden_layers"],
        )
        self.aux = nn.ModuleDict(
            {
                "glyphs": nn.Linear(dim, GLYPH_SLOTS * GLYPH_CLASSES),
                "shape": nn.Linear(dim, SHAPE_CLASSES),
                "color": nn.Linear(dim, COLOR_CLASSES),
            }
        )
        _initialize(self)

    @property
    def tower(self) -> VisionTower:
        """The vision tower."""
        return self.model.vision_embed_tokens.img_processor.vision_model

    def image_table(self, batch: Batch) -> Tensor:
        """(cells + 2, dim): every cell of the batch's views, then the row separator and the global one."""
        image = self.model.vision_embed_tokens
        features = self.tower(batch.patches).flatten(0, 1)
        separators = torch.cat([image.sub_GN.view(1, -1), image.glb_GN.view(1, -1)]).to(features.dtype)
        return image.img_projection(torch.cat([features, separators]))

    def hidden(self, batch: Batch, table: Tensor) -> Tensor:
        """(batch, tokens, dim): the text model's last states."""
        x = self.model.embed_tokens(batch.tokens)
        shown = batch.features >= 0
        x = torch.where(shown[..., None], table.float()[batch.features.clamp(min=0)], x)
        cos, sin = self._rotary(batch.positions, batch.long_rope)
        order = torch.arange(x.shape[1], device=x.device)
        own = (batch.branches[:, None, :] == 0) | (batch.branches[:, None, :] == batch.branches[:, :, None])
        visible = (order[:, None] >= order[None, :]) & own
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        mask = torch.zeros(visible.shape, dtype=dtype, device=x.device).masked_fill(~visible, -1e4)[:, None]
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

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
        return {
            name: value.detach().cpu().bfloat16().contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith("aux.")
        }


def _initialize(network: DemoNetwork) -> None:
    """Normal weights by fan-in, and a tower that begins by looking at a patch's neighbours."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(("o_proj", "out_proj", "down_proj", "fc2"))
            nn.init.normal_(module.weight, std=(0.4 if residual else 0.9) * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(network.model.embed_tokens.weight, std=0.5)
    tower = network.tower
    nn.init.normal_(tower.embeddings.patch_embedding.weight, std=0.8 * 588**-0.5)
    nn.init.normal_(tower.embeddings.class_embedding, std=0.02)
    with torch.no_grad():
        positions = tower.embeddings.position_embedding.weight
        positions[0] = 0
        positions[1:] = _sincos_2d(positions.shape[1]).flatten(0, 1)
        for layer in tower.encoder.layers:
            attention = layer.self_attn
            dim, head_dim = (
                attention.q_proj.weight.shape[0],
                attention.q_proj.weight.shape[0] // attention.heads,
            )
            for head in range(attention.heads):
                # Equal query and key maps: a patch attends where the position code is like its own.
                shared = torch.linalg.qr(torch.randn(dim, head_dim))[0].T * (0.9 + 0.25 * head)
                rows = slice(head * head_dim, (head + 1) * head_dim)
                for proj in (attention.q_proj, attention.k_proj):
                    proj.weight[rows] = shared + torch.randn(head_dim, dim) * 0.01


def _sincos_2d(dim: int) -> Tensor:
    """(24, 24, dim): sines and cosines of the row in one half, of the column in the other."""
    frequency = 1.2 / 60 ** (torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(24.0)[:, None] * frequency
    code = torch.cat([angle.sin(), angle.cos()], dim=1)  # (24, dim / 2)
    rows, columns = code[:, None].expand(24, 24, -1), code[None].expand(24, 24, -1)
    return torch.cat([rows, columns], dim=-1)
