"""What the processes of a cluster send back."""

from __future__ import annotations

from typing import Any

import pytest
from phi_vision.batch.on_ray.outcomes import decoded, encoded
from phi_vision.batch.work import ItemError, TryLater
from phi_vision.errors import PhiVisionError, UsageError


@pytest.mark.parametrize(
    "outcome",
    [
        {"text": "a wörd \ud800", "later": "no", "error": None},
        TryLater("full", 3.5, is_overload=True),
        ItemError("refused", cause="refused", status=400, body={"error": {"message": "no"}}),
        ItemError("broke", cause="server", is_final=False),
        UsageError("the key"),
        PhiVisionError("the server has ended"),
    ],
)
def test_it_comes_back_as_it_was_sent(outcome: Any) -> None:
    back = decoded(encoded(outcome))
    assert type(back) is type(outcome)
    if isinstance(outcome, Exception):
        assert isinstance(back, Exception)
        assert (str(back), vars(back)) == (str(outcome), vars(outcome))
    else:
        assert back == outcome
