"""Names under which vLLM finds our plugins, read by the launcher, the server and the benchmarks."""

from __future__ import annotations

GENERAL_PLUGIN = "phi_vision_model"
ENDPOINT_PLUGIN = "phi_vision_tasks"
PLAN_ARGUMENT = "phi_vision_memory_plan"  # attribute of vLLM's parsed arguments, for `routes.plan`
FRONT_END_ARGUMENT = "phi_vision_front_end"  # the same: the plan of the front end
PAGE_ARGUMENT = "phi_vision_page"  # the same, for `serving.app`: whether there is a page
MEDIA_CONNECTOR = "phi_vision"
GRAMMAR_BACKEND = "xgrammar"  # of structured outputs
