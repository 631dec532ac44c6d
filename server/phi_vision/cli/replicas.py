"""`phi-vision replicas`: several servers on this machine behind one address."""

from __future__ import annotations

import contextlib

from phi_vision.cli.terminal import print_status
from phi_vision.config import ServeConfig
from phi_vision.replicas.process import Tell
from phi_vision.replicas.run import run
from phi_vision.replicas.settings import ReplicaSettings


def replicas(config: ServeConfig, settings: ReplicaSettings) -> None:
    """Serve until told to stop.

    Raises:
        UsageError: the machine, the model or the settings do not allow it.
        PhiVisionError: a server did not start.
    """
    run(config, settings, Tell(print_status, _show))


def _show(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads it; the servers go on
        print(line, flush=True)
