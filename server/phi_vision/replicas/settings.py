"""The settings of `phi-vision replicas` beside those of each server."""

from __future__ import annotations

from argparse import Namespace

from pydantic.dataclasses import dataclass

from phi_vision.settings import CONFIG, Settings, flags, setting


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ReplicaSettings(Settings):
    """Each is one flag of `phi-vision replicas`."""

    replicas: int | None = setting(
        None, "servers; default one for each GPU, on a CPU it must be said", unit="N", ge=1, le=64
    )
    hang_timeout_s: float = setting(
        30.0,
        "silence of a server, after which it is killed and started again",
        unit="SECONDS",
        ge=1,
        le=3600,
    )

    @classmethod
    def from_flags(cls, options: Namespace) -> ReplicaSettings:
        """What the parsed command line says."""
        return cls(**{flag.field: getattr(options, flag.field) for flag in flags(cls)})
