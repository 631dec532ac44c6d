"""A server waits for its turn on the GPU: imports are done by then, memory is not yet touched.

Starts take turns, because each measures what memory the others left; their imports need not.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

VARIABLE = "PHI_VISION_BENCHMARK_TURN"  # environment: the file whose appearance gives the turn


def register() -> None:
    """General plugin: vLLM calls it in each of its processes, and forked ones inherit what it does."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    init_device = WorkerWrapperBase.init_device

    def wait_and_init_device(self: Any) -> Any:
        while not Path(path).exists():
            time.sleep(0.05)
        return init_device(self)

    WorkerWrapperBase.init_device = wait_and_init_device
