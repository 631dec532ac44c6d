"""Phi-3.5's text model in plain torch and float32, to hold the served engine against.

Written from the published description, not from vLLM: RMSNorm, one matrix for queries, keys and
values, rotary embedding on rotated halves, SwiGLU with gate and up in one matrix. LongRoPE divides
each inverse frequency by a factor, of which there are a short and a long set, and scales cos and
sin by sqrt(1 + ln(max / original) / ln(original)).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

Factors = Literal["short", "long"]

WINDOW = 4096  # tokens, `original_max_position_embeddings`


class TextReference:
    """The text model of a checkpoint. It has no KV cache: a call computes the whole sequence.

    What was computed for a sequence without pictures is kept, as several tests ask for the same one.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
        weights = load_file(checkpoint / "model.safetensors")
        self.weights = {name: tensor.float() for name, tensor in weights.items()}
        self.heads: int = self.config["num_attention_heads"]
        self.head_dim: int = self.config["hidden_size"] // self.heads
        self._computed: dict[tuple[tuple[int, ...], int, Factors], Tensor] = {}

    def answer_logprobs(
        self, prompt: list[int], answer: list[int], pictures: Tensor | None = None
    ) -> tuple[Tensor, list[Factors]]:
        """What the original's rule makes of each token of an answer: (answer, vocab), and its factors.

        The original computes a sequence with the short factors while it has at most `WINDOW` tokens, then
        all of it with the long ones; a prompt as long as the window is long from the start.
        """
        short_steps = 0 if len(prompt) >= WINDOW else min(WINDOW + 1 - len(prompt), len(answer))
        long_steps = len(answer) - short_steps
        sequence = prompt + answer[:-1]
        steps = []
        if short_steps:
            steps.append(
                self.logprobs(sequence[: len(sequence) - long_steps], short_steps, "short", pictures)
            )
        if long_steps:
            steps.append(self.logprobs(sequence, long_steps, "long", pictures))
        factors: list[Factors] = ["short"] * short_steps
        factors += ["long"] * long_steps
        return torch.cat(steps), factors

    def logprobs(
        self, token_ids: list[int], last: int, factors: Factors, pictures: Tensor | None = None
    ) -> Tensor:
        """(last, vocab): log-probabilities of what follows each of the last `last` tokens.

        `pictures` (tokens, hidden) stand where the image tokens are, in order.
        """
        if pictures is not None:
            return self._logprobs(token_ids, last, factors, pictures)
        key = (tuple(token_ids), last, factors)
        if key not in self._computed:
            self._computed[key] = self._logprobs(token_ids, last, factors, None)
        return self._computed[key].clone()

    @torch.inference_mode()
    def _logprobs(self, token_ids: list[int], last: int, factors: Factors, pictures: Tensor | None) -> Tensor:
        cos, sin = self._rotary(len(token_ids), factors)
        ids = torch.tensor(token_ids)
        x = self.weights["model.embed_tokens.weight"][ids]  # (tokens, hidden)
        if pictures is not None:
            x[ids == self.config["image_token_id"]] = pictures
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + self._attention(self._norm(x, f"{layer}.input_layernorm"), layer, cos, sin)
            x = x + self._mlp(self._norm(x, f"{layer}.post_attention_layernorm"), layer)
        logits = self._linear(self._norm(x[-last:], "model.norm"), "lm_head")
        return logits.log_softmax(-1)

    def _rotary(self, length: int, factors: Factors) -> tuple[Tensor, Tensor]:
        """cos and sin, (length, head_dim / 2) each."""
        scaling = self.config["rope_scaling"]
        factor = torch.tensor(scaling[f"{factors}_factor"])
        original = self.config["original_max_position_embeddings"]
        longest = self.config["max_position_embeddings"]
        exponent = torch.arange(0, self.head_dim, 2) / self.head_dim
        inv_freq = 1 / (factor * self.config["rope_theta"] ** exponent)
        angle = torch.outer(torch.arange(length).float(), inv_freq)
        scale = math.sqrt(1 + math.log(longest / original) / math.log(original))
        return angle.cos() * scale, angle.sin() * scale

    def _attention(self, x: Tensor, layer: str, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = self._linear(x, f"{layer}.self_attn.qkv_proj")
        q, k, v = qkv.view(len(x), 3, self.heads, self.head_dim).permute(1, 2, 0, 3)  # (heads, tokens, dim)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # A leading batch dimension of one takes the kernel that never holds tokens x tokens.
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        return self._linear(mixed.transpose(0, 1).flatten(1), f"{layer}.self_attn.o_proj")

    def _mlp(self, x: Tensor, layer: str) -> Tensor:
        gate, up = self._linear(x, f"{layer}.mlp.gate_up_proj").chunk(2, dim=-1)
        return self._linear(F.silu(gate) * up, f"{layer}.mlp.down_proj")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.weights[f"{name}.weight"]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of (first half, second half) by its angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
