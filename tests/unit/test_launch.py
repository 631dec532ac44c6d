"""What stands between the launch plan and vLLM's own server."""

from __future__ import annotations

import pytest
from phi_vision import plugin_names
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.serving import launch
from phi_vision.spec import PHI_3_5_VISION


def test_the_log_level_that_is_advised_is_taken() -> None:
    parser = launch.vllm_parser()
    for given in (["--log-level", "debug"], ["--log-level=DEBUG"]):
        assert parser.parse_args(["model", *given]).log_level == "DEBUG"


@pytest.mark.parametrize("argument", ["--frobnicate", "--api-ke=x", "--max-num-s=4", "--max-num-seqs=x"])
def test_what_vllm_does_not_take_is_one_line(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A shortened name of ours would go past us: with `--api-ke` the server would be open."""
    with pytest.raises(UsageError, match=argument.partition("=")[0]):
        launch.vllm_parser().parse_args(["model", argument])
    assert capsys.readouterr().err == ""


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
