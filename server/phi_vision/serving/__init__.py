"""Everything that vLLM loads from us, on one screen. Imports are late: vLLM calls these in each process."""

from __future__ import annotations

from typing import Any


def register_model() -> None:
    """General plugin: the config and model classes, so that a checkpoint's own code is never run."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from phi_vision import processes
    from phi_vision.model.config import Phi3VConfig
    from phi_vision.serving import media_connector  # noqa: F401  (registers itself)
    from phi_vision.serving.vllm_compat import log_records, start_cause
    from phi_vision.spec import PHI_3_5_VISION

    processes.watch()
    log_records.install()
    start_cause.install()

    AutoConfig.register(Phi3VConfig.model_type, Phi3VConfig, exist_ok=True)
    ModelRegistry.register_model(PHI_3_5_VISION.architecture, "phi_vision.model.phi3v:PhiVisionForCausalLM")


def task_endpoints() -> Any:
    """Endpoint plugin: tasks behind the chat route, and the routes that describe them."""
    from phi_vision.serving.app import TaskEndpoints

    return TaskEndpoints()
