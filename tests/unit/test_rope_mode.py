"""Short or long: the decision on one request, and the settings around it."""

from __future__ import annotations

import pytest
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.model.rope_mode import cache_salt, is_long, long_salt, mode_from, modes, outgrown


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (50, 100, ["short"]),
        (4000, 96, ["short"]),
        (4000, 97, ["short"]),  # the last step went over 4,096 tokens
        (4000, 98, ["short", "long"]),
        (4095, 2, ["short"]),
        (4095, 3, ["short", "long"]),
        (4096, 1, ["long"]),
        (9000, 10, ["long"]),
    ],
)
def test_modes_of_a_request(prompt: int, answer: int, expected: list[str]) -> None:
    assert modes(prompt, answer) == expected
    assert mode_from(prompt) == expected[0]
    assert outgrown(prompt + answer - 1) == (prompt + answer > 4097)


def test_salts_of_two_modes_never_meet() -> None:
    own = [None, "a", "long:", "short:", "long:a", "short:a"]
    salts = {mode: [cache_salt(mode, salt) for salt in own] for mode in ("short", "long")}
    assert len({*salts["short"], *salts["long"]}) == 2 * len(own)
    assert [long_salt(salt) for salt in salts["short"]] == salts["long"]
    assert all(map(is_long, salts["long"])) and not any(map(is_long, salts["short"]))


def test_fixed_modes_are_for_their_lengths() -> None:
    assert not ServeConfig(rope="short", max_model_len=4096).chooses_rope
    assert not ServeConfig(rope="per-request", max_model_len=4096).chooses_rope
    assert ServeConfig(rope="per-request", max_model_len=4097).chooses_rope
    with pytest.raises(UsageError, match="--rope short needs"):
        ServeConfig(rope="short", max_model_len=4097)
    with pytest.raises(UsageError, match="--rope long needs"):
        ServeConfig(rope="long", max_model_len=4096)
