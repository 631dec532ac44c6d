"""Ideal times by arithmetic: operations over the GPU's rate, bytes over its bandwidth. Pure.

No server comes below these, but with weights in eight bits on GPUs that multiply in eight bits (compute
capability 8.9 on): the rates are those of bf16 products.
"""

from __future__ import annotations

from dataclasses import dataclass

from phi_vision.planning.memory import BF16_BYTES, kv_bytes_per_token
from phi_vision.spec import PHI_3_5_VISION, Dimensions


@dataclass(frozen=True)
class Rates:
    """What a GPU can do at best."""

    tflops: float  # dense products of bf16 matrices (fp16 where there is no bf16), as good kernels reach them
    gb_per_s: float  # memory bandwidth of the data sheet


@dataclass(frozen=True)
class Work:
    """What the model has to compute and read.

    Args:
        model: its dimensions.
        weights_bytes: of the text layers' matrices; None: of bf16.
        kv_bytes_per_token: of all layers; None: of bf16.
    """

    model: Dimensions = PHI_3_5_VISION.dimensions
    weights_bytes: float | None = None
    kv_bytes_per_token: float | None = None

    def vision_flops(self, crops: int) -> float:
        """The tower on `crops` crops: weights and attention."""
        model = self.model
        weights = 4 * model.vision_hidden**2 + 2 * model.vision_hidden * model.vision_mlp
        attention = 2 * model.vision_positions * model.vision_hidden
        return crops * model.vision_positions * model.vision_layers * 2 * (weights + attention)

    def prefill_flops(self, tokens: int) -> float:
        """The text model on a prompt; the causal half of attention, the logits of the last token alone."""
        attention = self.model.layers * tokens * self.model.hidden  # half of 2 * tokens * hidden
        return 2 * tokens * (self.model.linear_params + attention)

    def decode_bytes(self, sequences: int, context_tokens: float) -> float:
        """Bytes read for one token of each of `sequences`: weights once, each one's KV cache."""
        weights, kv = self.weights_bytes, self.kv_bytes_per_token
        if weights is None:
            weights = self.model.linear_params * BF16_BYTES
        if kv is None:
            kv = kv_bytes_per_token(self.model, "bf16")
        output_layer = self.model.vocab * self.model.hidden * BF16_BYTES
        return weights + output_layer + sequences * context_tokens * kv


@dataclass(frozen=True)
class Limit:
    """Ideal milliseconds of one request's stages."""

    vision_ms: float
    prefill_ms: float
    decode_ms_per_token: float  # a step, which gives each of the sequences a token

    @property
    def ttft_ms(self) -> float:
        """Tower and prompt one after the other, the host's work free."""
        return self.vision_ms + self.prefill_ms


def limit(
    rates: Rates, crops: int, prompt_tokens: int, sequences: int = 1, work: Work | None = None
) -> Limit:
    """The ideal stages of a request with `crops` crops in all (the global view counts as one)."""
    work = work or Work()
    flops_per_ms, bytes_per_ms = rates.tflops * 1e9, rates.gb_per_s * 1e6
    return Limit(
        vision_ms=work.vision_flops(crops) / flops_per_ms,
        prefill_ms=work.prefill_flops(prompt_tokens) / flops_per_ms,
        decode_ms_per_token=work.decode_bytes(sequences, prompt_tokens) / bytes_per_ms,
    )


def requests_per_s(one: Limit, answer_tokens: int, sequences: int) -> float:
    """Requests a second at best, `sequences` in flight: `one` is their limit.

    Each takes the GPU for its crops and its prompt alone, and for its part of the steps of decoding, which
    all share: `vision + prefill + answer_tokens * step / sequences`.
    """
    return 1000 / (one.ttft_ms + answer_tokens * one.decode_ms_per_token / sequences)
