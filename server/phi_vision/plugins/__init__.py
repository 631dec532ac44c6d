"""Everything that vLLM loads from us, on one screen. Imports are late: vLLM calls these in each process."""

from __future__ import annotations

from typing import Any

GENERAL_PLUGIN = "phi_vision_model"
ENDPOINT_PLUGIN = "phi_vision_tasks"
PLAN_VARIABLE = "PHI_VISION_PLAN"  # environment: the launcher's memory plan as JSON, for `plan_endpoint`
MEDIA_CONNECTOR = "phi_vision"
GRAMMAR_BACKEND = "xgrammar"  # of structured outputs


def register_model() -> None:
    """General plugin: the config and model classes, so that a checkpoint's own code is never run."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from phi_vision import parent_watch
    from phi_vision.model.config import Phi3VConfig
    from phi_vision.plugins import log_redaction, media, start_faults  # noqa: F401  (media registers itself)

    parent_watch.watch()
    log_redaction.install()
    start_faults.watch()

    AutoConfig.register(Phi3VConfig.model_type, Phi3VConfig, exist_ok=True)
    ModelRegistry.register_model("Phi3VForCausalLM", "phi_vision.model.phi3v:PhiVisionForCausalLM")


def task_endpoints() -> Any:
    """Endpoint plugin: tasks behind the chat route, and the routes that describe them."""
    from phi_vision.plugins.endpoints import TaskEndpoints

    return TaskEndpoints()
