"""Fields that only repeat a default."""

from __future__ import annotations

from typing import Any

import pytest
from phi_vision.tasks.router_fields import (
    FOREIGN_DEFAULTS,
    SHARED_DEFAULTS,
    is_choice,
    without_foreign_defaults,
)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", None, False),
        ("temperature", 0.0, True),
        ("logprobs", False, False),
        ("logprobs", True, True),
        ("skip_special_tokens", True, False),
        ("skip_special_tokens", 1, True),  # no boolean: for validation to judge
        ("n", 1, True),
    ],
)
def test_a_default_is_no_choice(name: str, value: object, expected: bool) -> None:
    assert is_choice(name, value) == expected


def test_only_defaults_of_foreign_fields_are_left_out() -> None:
    kept: dict[str, Any] = {"messages": [], "temperature": None, **SHARED_DEFAULTS}
    assert without_foreign_defaults(kept | dict(FOREIGN_DEFAULTS)) == kept
    asked = {name: not value for name, value in FOREIGN_DEFAULTS.items()}
    assert without_foreign_defaults(asked) == asked
    assert without_foreign_defaults({"no_stop_trim": None}) == {"no_stop_trim": None}
