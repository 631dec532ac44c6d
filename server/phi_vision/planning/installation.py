"""What is installed here beside the engine itself, as far as a start depends on it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from phi_vision.planning import toolchain

# Groups of vLLM plugins that its `VLLM_PLUGINS` list filters. Ours must be named there, because
# endpoint plugins load only by name; so all others that are installed are named with them.
_FILTERED_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)


@dataclass(frozen=True)
class Installation:
    """What the launch plan must know of it."""

    plugins: tuple[str, ...] = ()  # names of vLLM plugins that load unless a list leaves them out
    flashinfer_can_sample: bool = True


def find_installation() -> Installation:
    """This one."""
    entries = importlib.metadata.entry_points()
    plugins = tuple(entry.name for group in _FILTERED_GROUPS for entry in entries.select(group=group))
    return Installation(plugins, toolchain.flashinfer_can_sample())
