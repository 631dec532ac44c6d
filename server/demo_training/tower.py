"""The vision tower in the form in which it is trained: each attention head looks at one neighbour.

Printed letters are read from what is near, and a tower that has to find that out for itself spends
hours on it. So where its heads look is given: head `h` of a layer looks `radius` patches away in the
direction `DIRECTIONS[h]`, and what it takes from there is learned. That makes a layer a dilated
convolution, which is how it is computed here. `queries_and_keys` says the same thing as attention:
patches carry a code of their place that no layer writes to, and a head's query is the code of the
place where it looks. The checkpoint holds plain CLIP weights; nothing about serving is special.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 24  # patches
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))  # down, right
RADII = (1, 1, 2, 2)  # of the layers, in patches
# Angles a patch, and how much each counts when codes are compared; chosen so that a code is by far most like
# its own place, and at the edge, where there is no such place, most like the nearest.
_ANGLES = (0.16136648, 0.26337975, 0.46081972, 0.6774069, 0.94727786, 2.15559983)
_ANGLE_WEIGHTS = (0.038, 0.140, 0.250, 0.217, 0.118, 0.237)
_PHASES = tuple(2 * math.pi * k / 3 for k in range(3))  # three of them sum to zero: layer norm takes no mean
CODE_DIM = 2 * len(_ANGLES) * len(_PHASES)  # the last dimensions of a patch
# The code is much larger than all else in a patch, so that layer norm scales it alike everywhere.
CODE_SIZE = 64.0
_SHARPNESS = 200.0  # score of the place looked at; one patch further it is a quarter less


class NeighborAttention(nn.Module):
    """Attention whose heads look at given neighbours; at the edge of the view, at the nearest patch."""

    def __init__(self, dim: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.v_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(views, dim, 24, 24) to the same."""
        dim, heads = x.shape[1], len(DIRECTIONS)
        out, values = self.out_proj.weight.view(dim, heads, -1), self.v_proj.weight.view(heads, -1, dim)
        taps = torch.einsum("ohd,hdi->oih", out, values)  # (dim, dim, heads)
        center = len(DIRECTIONS) // 2
        kernel = torch.cat([taps[..., :center], torch.zeros_like(taps[..., :1]), taps[..., center:]], dim=-1)
        bias = out.flatten(1) @ self.v_proj.bias + self.out_proj.bias
        kernel = kernel.view(dim, dim, 3, 3).to(x.dtype)
        return F.conv2d(_edged(x, self.radius), kernel, bias.to(x.dtype), dilation=self.radius)

    def queries_and_keys(self, code_scale: Tensor) -> dict[str, Tensor]:
        """The weights of `q_proj` and `k_proj` that look where this layer looks.

        Args:
            code_scale: (CODE_DIM,), by how much the code is larger or smaller than 1 here.
        """
        dim, heads = self.v_proj.weight.shape[1], len(DIRECTIONS)
        axes = [_rotations(0)] * 2
        pairs = 2 * 2 * len(_ANGLES)  # cosine and sine for each angle and axis
        weights = {name: torch.zeros(heads, dim // heads, dim) for name in ("q_proj", "k_proj")}
        size = math.sqrt(_SHARPNESS * math.sqrt(dim // heads) / (2 * len(_ANGLES)))
        counts = (len(_ANGLES) * torch.tensor(_ANGLE_WEIGHTS)).sqrt().repeat_interleave(2).repeat(2)[:, None]
        for head, direction in enumerate(DIRECTIONS):
            target = [_rotations(step * self.radius) for step in direction]
            for name, blocks in (("q_proj", target), ("k_proj", axes)):
                compared = counts * torch.block_diag(*blocks)
                weights[name][head, :pairs, -CODE_DIM:] = size * compared / code_scale
        shaped = {f"{name}.weight": weight.flatten(0, 1) for name, weight in weights.items()}
        return shaped | {f"{name}.bias": torch.zeros(dim) for name in weights}


class TowerLayer(nn.Module):
    """A pre-norm layer of CLIP with its quick GELU."""

    def __init__(self, dim: int, mlp: int, radius: int) -> None:
        super().__init__()
        self.self_attn = NeighborAttention(dim, radius)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, mlp), "fc2": nn.Linear(mlp, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """(views, 24, 24, dim) to the same."""
        looked = self.self_attn(_norm(self.layer_norm1, x).permute(0, 3, 1, 2))
        x = x + looked.permute(0, 2, 3, 1)
        hidden = self.mlp["fc1"](_norm(self.layer_norm2, x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    """CLIP's vision model up to its last layer but one, whose output is the image feature."""

    def __init__(self, dim: int, mlp: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, dim, 14, stride=14, bias=False)
        self.pre_layrnorm = nn.LayerNorm(dim)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(TowerLayer(dim, mlp, radius) for radius in RADII)
        places = torch.zeros(SIDE, SIDE, dim)
        places[..., -CODE_DIM:] = CODE_SIZE * place_code()
        self.register_buffer("places", places, persistent=False)
        self._initialize(dim)

    def forward(self, patches: Tensor) -> Tensor:
        """(views, 24, 24, 588) to (views, 24, 24, dim), the code at its plain size again."""
        x = F.linear(patches, self.embeddings.patch_embedding.weight.flatten(1))
        x = _norm(self.pre_layrnorm, x + self.places.to(x.dtype))
        for layer in self.encoder.layers:
            x = layer(x)
        return x * self.feature_scale(x.shape[-1]).to(x)

    @staticmethod
    def feature_scale(dim: int) -> Tensor:
        """(dim,): what brings a feature's code to size 1."""
        scale = torch.ones(dim)
        scale[-CODE_DIM:] = 1 / CODE_SIZE
        return scale

    def published(self) -> dict[str, Tensor]:
        """CLIP's parameters, the unused last layer included."""
        weights = dict(self.state_dict())
        dim = self.places.shape[-1]
        weights["embeddings.class_embedding"] = torch.zeros(dim)
        weights["embeddings.position_embedding.weight"] = torch.cat(
            [torch.zeros(1, dim), self.places.flatten(0, 1).cpu()]
        )
        for number, layer in enumerate(self.encoder.layers):
            prefix = f"encoder.layers.{number}."
            scale = layer.layer_norm1.weight[-CODE_DIM:].detach().cpu() * CODE_SIZE / _code_std(dim)
            weights |= {
                f"{prefix}self_attn.{k}": v for k, v in layer.self_attn.queries_and_keys(scale).items()
            }
        last = len(RADII)
        weights |= {
            name.replace("layers.0.", f"layers.{last}."): torch.zeros_like(value)
            for name, value in weights.items()
            if name.startswith("encoder.layers.0.")
        }
        return weights | {"post_layernorm.weight": torch.ones(dim), "post_layernorm.bias": torch.zeros(dim)}

    def _initialize(self, dim: int) -> None:
        """Weights by fan-in, layer norms that change little, and a code that is never written to."""
        content = torch.ones(dim)
        content[-CODE_DIM:] = 0
        nn.init.normal_(self.embeddings.patch_embedding.weight, std=0.8 * 588**-0.5)
        written = [self.embeddings.patch_embedding.weight, self.pre_layrnorm.weight, self.pre_layrnorm.bias]
        self.pre_layrnorm.weight.data.fill_(_code_std(dim))
        for layer in self.encoder.layers:
            for norm in (layer.layer_norm1, layer.layer_norm2):
                norm.weight.data = _code_std(dim) * self.feature_scale(dim)
                written += [norm.weight, norm.bias]
            for module, std in (
                (layer.self_attn.v_proj, 0.9),
                (layer.self_attn.out_proj, 0.4),
                (layer.mlp["fc1"], 0.9),
                (layer.mlp["fc2"], 0.4),
            ):
                nn.init.normal_(module.weight, std=std * module.in_features**-0.5)
                nn.init.zeros_(module.bias)
            for module in (layer.self_attn.out_proj, layer.mlp["fc2"]):
                written += [module.weight, module.bias]
        for parameter in written:
            mask = content.view(-1, *[1] * (parameter.ndim - 1))
            if parameter.ndim > 1 or not parameter.any():
                parameter.data *= mask
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient.device))


def place_code() -> Tensor:
    """(24, 24, CODE_DIM): the code of each place, first of its row, then of its column; size 1."""
    angles = torch.arange(SIDE)[:, None] * torch.tensor(_ANGLES)
    code = torch.stack([(angles + phase).cos() for phase in _PHASES], dim=-1).flatten(1)  # (24, 18)
    return torch.cat([code[:, None].expand(-1, SIDE, -1), code[None].expand(SIDE, -1, -1)], dim=-1)


def _rotations(steps: int) -> Tensor:
    """(2 angles, 3 angles): from the code of a place to cosines and sines of the place `steps` further."""
    blocks = []
    for angle in _ANGLES:
        turn = [angle * steps - phase for phase in _PHASES]
        blocks.append(torch.tensor([[math.cos(t) for t in turn], [math.sin(t) for t in turn]]) * 2 / 3)
    return torch.block_diag(*blocks)


def _code_std(dim: int) -> float:
    """What layer norm divides a patch by: nearly all that is in it is the code."""
    return CODE_SIZE * math.sqrt(CODE_DIM / 2 / dim)


def _edged(x: Tensor, width: int) -> Tensor:
    """(views, dim, 24, 24) with its edge repeated `width` times all around."""
    for axis in (2, 3):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, -1, 1)
        x = torch.cat([first] * width + [x] + [last] * width, dim=axis)
    return x


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
