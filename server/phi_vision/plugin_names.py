"""Names under which vLLM finds our plugins, read by the launcher, the server and the benchmarks."""

from __future__ import annotations

GENERAL_PLUGIN = "phi_vision_model"
ENDPOINT_PLUGIN = "phi_vision_tasks"
PLAN_VARIABLE = "PHI_VISION_PLAN"  # environment: the launcher's memory plan as JSON, for `routes.plan`
MEDIA_CONNECTOR = "phi_vision"
GRAMMAR_BACKEND = "xgrammar"  # of structured outputs
