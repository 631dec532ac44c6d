"""What stands between the launch plan and vLLM's own server."""

from __future__ import annotations

import pytest
from phi_vision import plugin_names
from phi_vision.errors import PhiVisionError
from phi_vision.serving import launch
from phi_vision.spec import PHI_3_5_VISION


@pytest.mark.parametrize("missing", [plugin_names.ENDPOINT_PLUGIN, plugin_names.GENERAL_PLUGIN])
def test_without_a_plugin_it_refuses_to_start(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.plugins
    from vllm import ModelRegistry

    kept = [n for n in (plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN) if n != missing]
    monkeypatch.setenv("VLLM_PLUGINS", ",".join(kept))
    monkeypatch.setattr(vllm.plugins, "plugins_loaded", False)
    monkeypatch.setattr(ModelRegistry, "models", dict(ModelRegistry.models))
    ModelRegistry.models.pop(PHI_3_5_VISION.architecture, None)
    with pytest.raises(PhiVisionError, match="plugin did not load"):
        launch.check_plugins()
