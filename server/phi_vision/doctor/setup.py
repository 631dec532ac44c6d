"""What is to be served and where, and the facts that several checks depend on, each found out once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from phi_vision.client.chat import has_our_tasks
from phi_vision.client.exchange import ApiKeyRequired, Endpoint
from phi_vision.client.process import local_process
from phi_vision.config import ServeConfig
from phi_vision.doctor import hub
from phi_vision.doctor.hub import HubFault
from phi_vision.errors import UsageError
from phi_vision.model.dimensions import read_config_json
from phi_vision.planning import hardware
from phi_vision.planning.checkpoint import DEMO_FOLDER, named_folder
from phi_vision.planning.hardware import Device
from phi_vision.planning.hub import Listing
from phi_vision.planning.weights_cache import (
    CachedWeights,
    inspect_cache,
    inspect_folder,
    storage_folder,
)
from phi_vision.spec import PHI_3_5_VISION, Dimensions

_PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Setup:
    """What `serve` would be told.

    Args:
        config: its settings.
        progress: told how far a slow check is.
        start: starts a server of its own, see `client.process.local_process`.
    """

    config: ServeConfig = field(default_factory=ServeConfig)
    progress: Callable[[str], None] = field(default=lambda _: None)
    start: Callable[..., Any] = local_process

    @cached_property
    def engine(self) -> str | None:
        """The device kind of the installed vLLM; None without one."""
        return hardware.installed_engine()

    @cached_property
    def driver(self) -> str | None:
        """The version of the NVIDIA driver that answers here."""
        return hardware.driver_version()

    @cached_property
    def device(self) -> Device | str:
        """What the model would run on, or why there is nothing."""
        try:
            return hardware.find_device(self.config.device)
        except UsageError as error:
            return str(error)

    @property
    def gpu(self) -> Device | None:
        """The device, if it is an NVIDIA GPU."""
        return self.device if isinstance(self.device, Device) and self.device.kind == "cuda" else None

    @property
    def folder(self) -> Path | None:
        """Where the checkpoint lies; None where it comes from the hub."""
        model = self.config.model
        return DEMO_FOLDER if model == "demo" else named_folder(model)

    @property
    def hub_id(self) -> str:
        """The repository on the hub, where the checkpoint comes from there."""
        return PHI_3_5_VISION.hub_id if self.config.model == "auto" else self.config.model

    @cached_property
    def hub_answer(self) -> Listing | HubFault:
        """What the hub has of the checkpoint, or why it cannot be downloaded."""
        return hub.ask(self.hub_id)

    @property
    def hub_fault(self) -> HubFault | None:
        """Why it cannot be downloaded."""
        return self.hub_answer if isinstance(self.hub_answer, HubFault) else None

    @cached_property
    def weights(self) -> CachedWeights:
        """What is here of the checkpoint: of the hub's, else of the one that was downloaded last."""
        if self.folder is not None:
            return inspect_folder(self.folder) if self.folder.is_dir() else CachedWeights(None)
        if isinstance(self.hub_answer, HubFault):
            return inspect_cache(self.hub_id)
        snapshot = storage_folder(self.hub_id) / "snapshots" / self.hub_answer.commit
        return inspect_folder(snapshot, self.hub_answer.files)

    @property
    def is_demo(self) -> bool:
        """Whether the demo is what a server would serve."""
        stands_in = self.config.model == "auto" and not self.weights.is_whole and self.hub_fault is not None
        return self.config.model == "demo" or stands_in

    @property
    def dimensions(self) -> Dimensions | None:
        """Those of what would be served; None where they are not known before the download."""
        if self.is_demo:
            return read_config_json(DEMO_FOLDER)
        if self.hub_id == PHI_3_5_VISION.hub_id:
            return PHI_3_5_VISION.dimensions
        with contextlib.suppress(OSError, ValueError, KeyError):
            return read_config_json(self.weights.folder) if self.weights.folder else None
        return None

    @property
    def endpoint(self) -> Endpoint:
        """Where a server would listen. Anybody may: it gets no key."""
        return Endpoint(f"http://{self.config.host}:{self.config.port}/v1")

    @cached_property
    def running(self) -> Endpoint | None:
        """A server of ours that already answers there."""
        try:
            return self.endpoint if has_our_tasks(self.endpoint, _PROBE_TIMEOUT_S) else None
        except ApiKeyRequired:
            return None
