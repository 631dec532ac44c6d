"""The settings of `serve`: defaults, bounds, and what excludes one another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from phi_vision.cli import main
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.settings import Flag, flags


def test_flags_default_to_the_fields() -> None:
    options = main.parser().parse_args(["serve"])
    assert ServeConfig.from_flags(options, []) == ServeConfig()


def test_flags_reach_their_fields() -> None:
    arguments = "serve --max-images 3 --client-timeout-s 2.5 --port 0 --max-model-len auto"
    config = ServeConfig.from_flags(main.parser().parse_args(arguments.split()), ["--seed", "1"])
    limits = Limits(max_images=3, client_timeout_s=2.5)
    assert config == ServeConfig(port=0, limits=limits, vllm_args=("--seed", "1"))


NUMBERS = [flag for flag in flags(ServeConfig) if flag.bounds]


@pytest.mark.parametrize("flag", NUMBERS, ids=lambda flag: flag.field)
def test_bounds(flag: Flag) -> None:
    assert flag.bounds is not None
    low, high = flag.bounds
    for value in (low, high):
        assert getattr(ServeConfig(**{flag.field: value}), flag.field) == value  # type: ignore[arg-type]
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(UsageError, match=f"^{flag.name} must be from {low} to {high}, not {value}$"):
            replace(ServeConfig(), **{flag.field: value})  # type: ignore[arg-type]


def test_all_numbers_have_bounds() -> None:
    numbers = {flag.field for flag in flags(ServeConfig) if type(flag.default) in (int, float)}
    assert numbers <= {flag.field for flag in NUMBERS}


@pytest.mark.parametrize("origins", ["x.org", '["*"]', "https://x.org/path"])
def test_what_is_no_origin_names_the_flag(origins: str) -> None:
    with pytest.raises(UsageError, match="--allowed-origins"):
        ServeConfig(allowed_origins=origins)


def test_origins_are_a_list_as_browsers_write_them() -> None:
    config = ServeConfig(allowed_origins="https://App.example.org, http://localhost:3000")
    assert config.origins == ["https://app.example.org", "http://localhost:3000"]


def test_another_type_names_the_flag() -> None:
    with pytest.raises(UsageError, match=r"^--host: "):
        ServeConfig(host=1)  # type: ignore[arg-type]
