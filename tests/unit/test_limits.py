"""The limits: their bounds, and how they reach vLLM's API processes."""

from __future__ import annotations

import pickle
from argparse import Namespace
from dataclasses import replace
from typing import Any

import pytest
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.settings import Flag, flags

WITHOUT_BOUNDS = {"files_folder", "allow_private_media", "allowed_hosts"}
NUMBERS = [flag for flag in flags(Limits) if flag.bounds]
PERMISSIVE = Limits(max_connections=50_000)  # so that no other limit is in the way


def test_every_limit_that_is_a_number_has_bounds_and_help() -> None:
    assert {flag.field for flag in flags(Limits)} - {flag.field for flag in NUMBERS} == WITHOUT_BOUNDS
    assert all(flag.help_text and flag.unit for flag in flags(Limits))


@pytest.mark.parametrize("flag", NUMBERS, ids=lambda flag: flag.field)
def test_bounds(flag: Flag) -> None:
    assert flag.bounds is not None
    low, high = flag.bounds
    for value in (low, high):
        assert getattr(replace(PERMISSIVE, **{flag.field: flag.parse(str(value))}), flag.field) == value
    wrong: list[Any] = [low - 1, low - 0.001, high + 1, float("nan"), float("inf"), "1", True]
    for value in wrong:
        with pytest.raises(UsageError, match=f"^{flag.name} must be from {low} to {high}, not {value}$"):
            replace(PERMISSIVE, **{flag.field: value})


def test_each_request_needs_a_connection() -> None:
    with pytest.raises(UsageError, match="--max-connections"):
        Limits(max_num_queued_reqs=Limits.max_connections)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allow_private_media", "10.0.0.0/33"),
        ("allow_private_media", "10.0.0.1/8"),
        ("allow_private_media", "example.com"),
        ("allow_private_media", "all"),
        ("allowed_hosts", "https://x.org"),
        ("allowed_hosts", "x.org:80"),
        ("allowed_hosts", "a*.org"),
    ],
)
def test_a_network_or_host_that_is_none_names_its_flag(field: str, value: str) -> None:
    with pytest.raises(UsageError, match="--" + field.replace("_", "-")):
        Limits(**{field: value})  # type: ignore[arg-type]


def test_units() -> None:
    limits = Limits(max_image_megapixels=1.5, max_image_mb=0.25, max_body_mb=3)
    assert (limits.max_image_pixels, limits.max_image_bytes, limits.max_body_bytes) == (
        1_500_000,
        250_000,
        3_000_000,
    )


def test_one_media_worker_for_each_core_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi_vision.limits.count_cores", lambda: 7)
    assert [Limits().media_workers_each(processes) for processes in (1, 2, 8)] == [7, 3, 1]
    assert Limits().media_workers_each(2, cores=16) == 8
    assert [Limits(media_workers=6).media_workers_each(processes) for processes in (1, 4, 8)] == [6, 1, 1]


def test_they_travel_on_vllms_arguments() -> None:
    limits = Limits(max_images=3, allow_private_media="10.0.0.0/8", max_num_queued_reqs=5)
    args = Namespace(host="localhost")
    limits.put_on(args)
    received: Any = pickle.loads(pickle.dumps(args))  # as vLLM sends them to several API processes
    assert Limits.from_args(received) == limits


def test_vllms_own_flag_of_that_name_is_refused() -> None:
    """vLLM's parser takes it with underscores, or from a file."""
    with pytest.raises(UsageError, match="--max-num-queued-reqs"):
        Limits().put_on(Namespace(max_num_queued_reqs=5))


def test_under_plain_vllm_the_defaults_hold() -> None:
    assert Limits.from_args(Namespace()) == Limits()
