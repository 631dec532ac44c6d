"""Which weights and KV cache to run with: named profiles, and what each choice costs in quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phi_vision.planning.hardware import Device
from phi_vision.spec import PHI_3_5_VISION

QUALITY_SECTION = "benchmarks/README.md, 'What quantization costs'"

_WEIGHTS_QUALITY = {
    "bf16": "",
    "fp8_per_block": "8-bit weights",
    "mxfp4": "4-bit weights, not calibrated: not measured, expect visible loss",
}
_KV_QUALITY = {
    "bf16": "",
    "fp8_e4m3": "8-bit KV without scales, attention off by 3 to 24 % on random data",
    "int8_per_token_head": "8-bit KV, gsm8k 0.834 -> 0.806 on Phi-3-mini",
    "int4_per_token_head": "4-bit KV, gsm8k 0.834 -> 0.800 on Phi-3-mini",
}

# CUDA compute capability from which vLLM has the kernels, where that is not 7.5.
_WEIGHTS_CAPABILITY = {"mxfp4": (8, 0)}
_KV_CAPABILITY = {"fp8_e4m3": (8, 9)}


@dataclass(frozen=True)
class Precision:
    """One way to hold the text weights and the KV cache; names of `planning.memory`."""

    weights: str
    kv_dtype: str

    @property
    def label(self) -> str:
        """For people: `fp8_per_block weights, int4_per_token_head KV`."""
        return f"{self.weights} weights, {self.kv_dtype} KV"

    @property
    def quality(self) -> str:
        """What it costs, in a few words."""
        costs = filter(None, (_WEIGHTS_QUALITY[self.weights], _KV_QUALITY[self.kv_dtype]))
        return ", ".join(costs) or "none, as published"

    def runs_on(self, device: Device) -> bool:
        """Whether vLLM has the kernels for it on this device.

        Source: `online/base.py`, `scaled_mm/marlin.py` (from compute capability 7.5 on; mxfp4 only in
        bfloat16, which begins at 8.0), `triton_attn.py` and `cpu_attn.py` (the KV dtypes of each).
        """
        if device.kind == "cpu":
            return self == PUBLISHED or (self == Precision("bf16", "fp8_e4m3") and device.has_avx512)
        if self == PUBLISHED:
            return True
        needed = max(_WEIGHTS_CAPABILITY.get(self.weights, (7, 5)), _KV_CAPABILITY.get(self.kv_dtype, (7, 5)))
        return (device.capability or (0, 0)) >= needed

    def takes_dtype(self, dtype: str | None) -> bool:
        """Whether vLLM multiplies these weights with activations in this `--dtype`; None: its own choice.

        Source: `online/base.py` (`get_supported_act_dtypes`), and for mxfp4 as in `runs_on`.
        """
        if self.weights == "bf16" or dtype in (None, "auto", "bfloat16"):
            return True
        return self.weights == "fp8_per_block" and dtype in ("float16", "half")

    def attention_backend(self, device: Device, *, is_float32: bool = False) -> str:
        """vLLM's name of the attention kernels for it.

        On a GPU only Triton's read a quantized KV cache, and FlashAttention has none for float32.
        """
        backend = device.attention_backend
        if device.kind == "cuda" and self.kv_dtype != "bf16":
            return "TRITON_ATTN"
        return "TRITON_ATTN" if backend == "FLASH_ATTN" and is_float32 else backend


@dataclass(frozen=True)
class Profile:
    """Precisions in order of accuracy, the most accurate first; the first that fits is taken."""

    precisions: tuple[Precision, ...]
    max_model_len: int = PHI_3_5_VISION.max_model_len  # tokens: the default and the most it allows


PUBLISHED = Precision("bf16", "bf16")

PROFILES: Mapping[str, Profile] = {
    # As published, within the window of the short rotary factors.
    "faithful": Profile((PUBLISHED,), PHI_3_5_VISION.short_window),
    # Nothing below eight bits.
    "balanced": Profile(
        (
            PUBLISHED,
            Precision("fp8_per_block", "bf16"),
            Precision("bf16", "int8_per_token_head"),
            Precision("fp8_per_block", "int8_per_token_head"),
            Precision("bf16", "fp8_e4m3"),
        )
    ),
    # The KV cache in four bits.
    "long": Profile(
        (
            Precision("bf16", "int4_per_token_head"),
            Precision("fp8_per_block", "int4_per_token_head"),
            Precision("mxfp4", "int4_per_token_head"),
        )
    ),
}


def precisions(profile: str, device: Device) -> list[tuple[str, Precision]]:
    """(profile, precision) pairs to try on this device, in order; `auto` tries all profiles."""
    names = tuple(PROFILES) if profile == "auto" else (profile,)
    pairs = [(name, p) for name in names for p in PROFILES[name].precisions if p.runs_on(device)]
    # fp8 without scales stands in for int8 on CPUs, which do not have that; elsewhere it only costs.
    return [(name, p) for name, p in pairs if p.kv_dtype != "fp8_e4m3" or device.kind == "cpu"]
