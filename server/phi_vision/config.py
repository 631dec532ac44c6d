"""Every default once. Flags, `--help` and the tables in the docs read the fields of `ServeConfig`."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from phi_vision.errors import UsageError
from phi_vision.model.crops import CropPolicy
from phi_vision.spec import PHI_3_5_VISION

DEVICES = ("auto", "cuda", "cpu", "mps")
PROFILE_NAMES = ("auto", "faithful", "balanced", "long")  # what they hold: planning.profiles


def _setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] | None = None,
    unit: str = "",
    parse: Callable[[str], Any] | None = None,
) -> Any:
    metadata = {"help": text, "choices": choices, "unit": unit, "parse": parse}
    return field(default=default, metadata=metadata)


def tokens(text: str) -> int | None:
    """A flag's number of tokens; None for `auto`. Its name stands in argparse's message."""
    return None if text == "auto" else int(text)


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@dataclass(frozen=True)
class ServeConfig:
    """What `phi-vision serve` was asked for. Flags of vLLM's own travel in `vllm_args`, unread.

    Raises:
        UsageError: a value out of its range, naming the flag.
    """

    model: str = _setting(
        "auto",
        "'auto' (the published weights if they are cached or the hub answers, else the demo), 'demo', "
        "a hub id or a folder",
        unit="ID|PATH",
    )
    device: str = _setting("auto", "where the model runs", choices=DEVICES)
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for all", unit="ADDRESS")
    port: int = _setting(8000, "port to listen on, 0 for a free one", unit="N")
    api_key: str | None = _setting(
        None,
        "key that clients must send, visible in the process list; better --api-key-file or $VLLM_API_KEY; "
        "none: open to all who reach it",
        unit="KEY",
    )
    api_key_file: str | None = _setting(None, "file with one key a line", unit="FILE")
    allowed_hosts: str | None = _setting(
        None,
        "names with commas (phi.example.org,*.lab.example.org) that the server goes by, beside addresses, "
        "localhost and the machine's own; * for all, the default with a key",
        unit="NAMES",
    )
    allowed_origins: str | None = _setting(
        None,
        "origins with commas (https://app.example.org) whose web pages may use the server, beside its own; "
        "* for all; default none",
        unit="ORIGINS",
    )
    served_model_name: str | None = _setting(
        None,
        f"name in the API; default {PHI_3_5_VISION.served_name}, with the demo {PHI_3_5_VISION.demo_name}",
        unit="NAME",
    )
    max_model_len: int | None = _setting(
        None,
        "context in tokens, prompt and answer together; default auto: what the profile promises, "
        f"{PHI_3_5_VISION.max_model_len}, with faithful 4096",
        unit="auto|TOKENS",
        parse=tokens,
    )
    profile: str = _setting(
        "auto",
        "how weights and KV cache are held: 'faithful' as published and at most 4096 tokens, 'balanced' in "
        "eight bits or more, 'long' with the KV cache in four; 'auto' takes the most accurate that fits",
        choices=PROFILE_NAMES,
    )
    rope: str = _setting(
        "per-request",
        f"LongRoPE factors: short for sequences of up to {PHI_3_5_VISION.short_window} tokens and long "
        "beyond, as the original model has it, or one set for all",
        choices=("per-request", "long", "short"),
    )
    num_crops: int = _setting(CropPolicy.single, "crops for the only picture of a request", unit="N")
    num_crops_multi: int = _setting(
        CropPolicy.multi, "crops for each of several pictures or frames", unit="N"
    )
    crops: str = _setting(
        "fixed",
        "'adaptive' never uses more crops than the picture's own pixels fill: small pictures cost less",
        choices=("fixed", "adaptive"),
    )
    max_images: int = _setting(16, "pictures in one request at most", unit="N")
    gpu_memory_utilization: float = _setting(
        0.92, "share of the device's memory that the server may take", unit="SHARE"
    )
    max_image_megapixels: float = _setting(50.0, "pixels of one picture at most, in millions", unit="N")
    max_image_mb: float = _setting(20.0, "size of one picture file at most, in millions of bytes", unit="N")
    media_timeout_s: float = _setting(
        10.0, "time to fetch one picture from its URL, redirects included", unit="SECONDS"
    )
    decode_timeout_s: float = _setting(
        20.0, "decoder time of one request, all of its pictures together", unit="SECONDS"
    )
    allow_private_media: str = _setting(
        "",
        "networks with commas (10.1.0.0/16,fd00::/8) from which pictures may be fetched although they are "
        "not public; default none",
        unit="NETWORKS",
    )
    max_body_mb: float = _setting(64.0, "size of one request at most, in millions of bytes", unit="N")
    max_connections: int = _setting(
        1000,
        "open connections at most; the one that waits longest for a request makes room for the next",
        unit="N",
    )
    client_timeout_s: float = _setting(
        60.0,
        "time for a client to send a request's head, to send its body, and to take each 48 KiB of its answer",
        unit="SECONDS",
    )
    max_num_queued_reqs: int | None = _setting(
        None,
        "requests at work or waiting at most, the next one gets 429; default: twice what the KV cache holds",
        unit="N",
    )
    shutdown_timeout: int = _setting(
        30, "time that running requests get to finish after SIGTERM", unit="SECONDS"
    )
    vllm_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check("port", 0, 65535)
        if self.max_model_len is not None:
            self._check("max_model_len", 64, PHI_3_5_VISION.max_model_len)
            window = PHI_3_5_VISION.short_window
            if self.rope == "short" and self.max_model_len > window:
                raise UsageError(f"--rope short needs a --max-model-len of at most {window}")
            if self.rope == "long" and self.max_model_len <= window:
                raise UsageError(f"--rope long needs a --max-model-len above {window}")
        self._check("num_crops", 1, PHI_3_5_VISION.max_num_crops)
        self._check("num_crops_multi", 1, PHI_3_5_VISION.max_num_crops)
        self._check("max_images", 1, 1000)
        self._check("gpu_memory_utilization", 0.05, 1.0)
        self._check("max_image_megapixels", 0.01, 1000)
        self._check("max_image_mb", 0.01, 1000)
        self._check("media_timeout_s", 0.1, 600)
        self._check("decode_timeout_s", 0.1, 600)
        self._check("max_body_mb", 0.01, 2000)
        self._check("max_connections", 2, 50_000)
        self._check("client_timeout_s", 0.1, 3600)
        self._check("shutdown_timeout", 0, 3600)
        if self.max_num_queued_reqs is not None:
            self._check("max_num_queued_reqs", 1, 100_000)
            if self.max_num_queued_reqs >= self.max_connections:
                raise UsageError("--max-num-queued-reqs must be below --max-connections: each takes one")
        try:
            [ipaddress.ip_network(network) for network in _listed(self.allow_private_media)]
        except ValueError as error:
            raise UsageError(f"--allow-private-media: {error}") from error
        for host in _listed(self.allowed_hosts):
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+", host):
                raise UsageError(
                    f"--allowed-hosts: {host} is no name such as phi.example.org, without a port"
                )
        for origin in self.origins:
            if not re.fullmatch(r"\*|null|[\w.+-]+://[^/\s]+", origin):
                raise UsageError(f"--allowed-origins: {origin} is no origin such as https://app.example.org")

    def _check(self, name: str, low: float, high: float) -> None:
        if not low <= getattr(self, name) <= high:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} must be from {low} to {high}, not {getattr(self, name)}")

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
        return [origin.lower() for origin in _listed(self.allowed_origins)]

    @property
    def guard(self) -> GuardSettings:
        """The limits in pixels, bytes and seconds."""
        return GuardSettings(
            max_pixels=int(self.max_image_megapixels * 1e6),
            max_bytes=int(self.max_image_mb * 1e6),
            timeout_s=self.media_timeout_s,
            decode_timeout_s=self.decode_timeout_s,
            allowed_networks=self.allow_private_media,
            max_body_bytes=int(self.max_body_mb * 1e6),
            max_requests=self.max_num_queued_reqs,
            max_connections=self.max_connections,
            client_timeout_s=self.client_timeout_s,
            allowed_hosts=self.allowed_hosts,
        )

    @property
    def most_crops(self) -> int:
        """Crops of the largest picture that may come."""
        return max(self.num_crops, self.num_crops_multi)

    @property
    def crop_policy(self) -> CropPolicy:
        """The crops settings as the policy that every route asks."""
        return CropPolicy(self.num_crops, self.num_crops_multi, self.crops == "adaptive")


@dataclass(frozen=True)
class GuardSettings:
    """The limits, as vLLM's processes get them: they see our environment, not our command line."""

    max_pixels: int  # of one picture
    max_bytes: int  # of one picture's file
    timeout_s: float  # to fetch it
    decode_timeout_s: float  # of one request's pictures together
    allowed_networks: str  # private ones, with commas
    max_body_bytes: int
    max_requests: int | None
    max_connections: int
    client_timeout_s: float  # for each: to send a head, to send a body, to take a piece of an answer
    allowed_hosts: str | None  # names, with commas

    _VARIABLE: ClassVar[str] = "PHI_VISION_GUARD"

    def to_environment(self) -> dict[str, str]:
        """The variable that `from_environment` reads."""
        return {self._VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> GuardSettings:
        """What the launcher set, else the defaults."""
        given = os.environ.get(cls._VARIABLE)
        return ServeConfig().guard if given is None else cls(**json.loads(given))


def setting_metadata() -> Mapping[str, tuple[Callable[[str], Any], Any, Mapping[str, Any]]]:
    """Each setting of `ServeConfig` that is a flag: name -> (type, default, metadata)."""
    kinds: dict[str, type] = {"int": int, "int | None": int, "float": float}
    return {
        f.name: (f.metadata["parse"] or kinds.get(str(f.type), str), f.default, f.metadata)
        for f in fields(ServeConfig)
        if f.metadata
    }
