"""Which weights are served under which names."""

from __future__ import annotations

import pytest
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.spec import PHI_3_5_VISION


def test_without_weights_and_hub_the_demo_is_loud(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("empty")))
    found = find_checkpoint("auto", None)
    assert found.name == PHI_3_5_VISION.demo_name and found.aliases == (PHI_3_5_VISION.served_name,)
    assert found.banner and "DEMO MODEL" in found.banner and "hub" in found.banner
    assert all(len(line) == len(found.banner.splitlines()[0]) for line in found.banner.splitlines())
    assert found.dimensions.layers < PHI_3_5_VISION.dimensions.layers
