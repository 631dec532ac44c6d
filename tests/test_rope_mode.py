"""Short or long: the decision on one request, and the settings around it."""

from __future__ import annotations

import pytest
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.rope_mode import RopePlan, cache_salt, plan


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "asked", "expected"),
    [
        (50, 100, True, RopePlan("short", 100)),
        (4000, 96, True, RopePlan("short", 96)),
        (4000, 97, True, RopePlan("long", 97)),
        (4096, 1, True, RopePlan("long", 1)),
        (9000, 10, True, RopePlan("long", 10)),
        # A length that nobody asked for ends with the window...
        (50, 131022, False, RopePlan("short", 4046)),
        (2509, 2048, False, RopePlan("short", 1587)),
        # ...where that leaves enough of it.
        (3584, 2048, False, RopePlan("short", 512)),
        (3585, 2048, False, RopePlan("long", 2048)),
        (3900, 128, False, RopePlan("short", 128)),
        (4090, 128, False, RopePlan("long", 128)),
    ],
)
def test_plan(prompt: int, max_tokens: int, asked: bool, expected: RopePlan) -> None:
    assert plan(prompt, max_tokens, asked=asked) == expected


def test_plan_leaves_room_for_the_shortest_answer_asked_for() -> None:
    assert plan(3000, 9000, asked=False, min_tokens=1096) == RopePlan("short", 1096)
    assert plan(3000, 9000, asked=False, min_tokens=1097) == RopePlan("long", 9000)


def test_salts_of_two_modes_never_meet() -> None:
    own = [None, "a", "short:", "rope-long:", "rope-short:a"]
    salts = [cache_salt(mode, salt) for mode in ("short", "long") for salt in own]
    assert len(set(salts)) == len(salts)


def test_fixed_modes_are_for_their_lengths() -> None:
    assert not ServeConfig(rope="short", max_model_len=4096).chooses_rope
    assert not ServeConfig(rope="per-request", max_model_len=4096).chooses_rope
    assert ServeConfig(rope="per-request", max_model_len=4097).chooses_rope
    with pytest.raises(UsageError, match="--rope short needs"):
        ServeConfig(rope="short", max_model_len=4097)
    with pytest.raises(UsageError, match="--rope long needs"):
        ServeConfig(rope="long", max_model_len=4096)
