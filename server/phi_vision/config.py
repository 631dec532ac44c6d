"""The settings of `phi-vision serve`. Each default stands once, as a field of `ServeConfig` or `Limits`."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from phi_vision.errors import UsageError
from phi_vision.limits import Limits, split_list
from phi_vision.model.crops import CropPolicy
from phi_vision.settings import CONFIG, Settings, flags, setting
from phi_vision.spec import PHI_3_5_VISION

DEVICES = ("auto", "cuda", "cpu", "mps")
PROFILE_NAMES = ("auto", "faithful", "balanced", "long")  # what they hold: planning.profiles


def tokens(text: str) -> int | None:
    """A flag's number of tokens; None for `auto`. Its name stands in argparse's message."""
    return None if text == "auto" else int(text)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ServeConfig(Settings):
    """The settings of `phi-vision serve`; `vllm_args` holds flags of vLLM's own, as they were given.

    Raises:
        UsageError: a value out of its range, naming the flag.
    """

    model: str = setting(
        "auto",
        "'auto' (the published weights if they are cached or the hub answers, else the demo), 'demo', "
        "a hub id or a folder",
        unit="ID|PATH",
    )
    device: str = setting("auto", "where the model runs", choices=DEVICES)
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for all", unit="ADDRESS")
    port: int = setting(8000, "port to listen on, 0 for a free one", unit="N", ge=0, le=65535)
    api_key: str | None = setting(
        None,
        "key that clients must send, visible in the process list; better --api-key-file or $VLLM_API_KEY; "
        "none: open to all who reach it",
        unit="KEY",
    )
    api_key_file: str | None = setting(None, "file with one key a line", unit="FILE")
    allowed_origins: str | None = setting(
        None,
        "origins with commas (https://app.example.org) whose web pages may use the server, beside its own; "
        "* for all; default none",
        unit="ORIGINS",
    )
    served_model_name: str | None = setting(
        None,
        f"name in the API; default {PHI_3_5_VISION.served_name}, with the demo {PHI_3_5_VISION.demo_name}",
        unit="NAME",
    )
    max_model_len: int | None = setting(
        None,
        "context in tokens, prompt and answer together; default auto: what the profile promises, "
        f"{PHI_3_5_VISION.max_model_len}, with faithful 4096",
        unit="auto|TOKENS",
        parse=tokens,
        ge=64,
        le=PHI_3_5_VISION.max_model_len,
    )
    profile: str = setting(
        "auto",
        "how weights and KV cache are held: 'faithful' as published and at most 4096 tokens, 'balanced' in "
        "eight bits or more, 'long' with the KV cache in four; 'auto' takes the most accurate that fits",
        choices=PROFILE_NAMES,
    )
    rope: str = setting(
        "per-request",
        f"LongRoPE factors: short for sequences of up to {PHI_3_5_VISION.short_window} tokens and long "
        "beyond, as the original model has it, or one set for all",
        choices=("per-request", "long", "short"),
    )
    num_crops: int = setting(
        PHI_3_5_VISION.num_crops,
        "crops for the only picture of a request",
        unit="N",
        ge=1,
        le=PHI_3_5_VISION.max_num_crops,
    )
    num_crops_multi: int = setting(
        PHI_3_5_VISION.num_crops_multi,
        "crops for each of several pictures or frames",
        unit="N",
        ge=1,
        le=PHI_3_5_VISION.max_num_crops,
    )
    crops: str = setting(
        "fixed",
        "'adaptive' never uses more crops than the picture's own pixels fill: small pictures cost less",
        choices=("fixed", "adaptive"),
    )
    gpu_memory_utilization: float = setting(
        0.92, "share of the device's memory that the server may take", unit="SHARE", ge=0.05, le=1.0
    )
    shutdown_timeout: int = setting(
        30, "time that running requests get to finish after SIGTERM", unit="SECONDS", ge=0, le=3600
    )
    no_page: bool = setting(False, "no web page at /")
    limits: Limits = Limits()
    vllm_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_model_len is not None:
            window = PHI_3_5_VISION.short_window
            if self.rope == "short" and self.max_model_len > window:
                raise UsageError(f"--rope short needs a --max-model-len of at most {window}")
            if self.rope == "long" and self.max_model_len <= window:
                raise UsageError(f"--rope long needs a --max-model-len above {window}")
        for origin in self.origins:
            if not re.fullmatch(r"\*|null|[\w.+-]+://[^/\s]+", origin):
                raise UsageError(f"--allowed-origins: {origin} is no origin such as https://app.example.org")

    @classmethod
    def from_flags(cls, options: Namespace, vllm_args: Sequence[str]) -> ServeConfig:
        """What the parsed command line says."""
        own, limits = (
            {flag.field: getattr(options, flag.field) for flag in flags(kind)} for kind in (cls, Limits)
        )
        return cls(**own, limits=Limits(**limits), vllm_args=tuple(vllm_args))

    @property
    def context(self) -> int:
        """`max_model_len`; where that is still open, what the model was trained for."""
        return PHI_3_5_VISION.max_model_len if self.max_model_len is None else self.max_model_len

    @property
    def chooses_rope(self) -> bool:
        """Whether requests can differ in their LongRoPE factors; if not, vLLM's own choice is right."""
        return self.rope == "per-request" and self.context > PHI_3_5_VISION.short_window

    @property
    def origins(self) -> list[str]:
        """`allowed_origins`, each for itself, as browsers write them."""
        return [origin.lower() for origin in split_list(self.allowed_origins)]

    @property
    def most_crops(self) -> int:
        """Crops of the largest picture that may come."""
        return max(self.num_crops, self.num_crops_multi)

    @property
    def crop_policy(self) -> CropPolicy:
        """The crops settings as the policy that every route asks."""
        return CropPolicy(self.num_crops, self.num_crops_multi, self.crops == "adaptive")
