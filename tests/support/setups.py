"""A setup for `doctor`'s checks whose facts a test names, so that nobody looks them up."""

from __future__ import annotations

from typing import Any

from phi_vision.config import ServeConfig
from phi_vision.doctor.setup import Setup


def setup_for(model: str = "auto", **options: Any) -> Setup:
    """As `serve --model` would have it."""
    return Setup(ServeConfig(model=model), **options)


def setup_with(setup: Setup | None = None, **facts: Any) -> Setup:
    """The setup, by default an empty one, with these of its facts."""
    setup = setup or Setup()
    vars(setup).update(facts)  # where `cached_property` keeps what it has found
    return setup
