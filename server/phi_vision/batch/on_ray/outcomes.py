"""What came of an item, as JSON: what the processes of a cluster send back."""

from __future__ import annotations

import json

from phi_vision.batch.runner import Outcome
from phi_vision.batch.work import ItemError, TryLater
from phi_vision.errors import PhiVisionError, UsageError


def encoded(outcome: Outcome) -> str:
    """As JSON; of an error that ends the run its message stays, and whether the user can mend it."""
    match outcome:
        case TryLater():
            value = {"later": str(outcome), "wait_s": outcome.wait_s, "is_overload": outcome.is_overload}
        case ItemError():
            value = {"error": outcome.as_json(), "is_final": outcome.is_final}
        case PhiVisionError():
            value = {"fault": str(outcome), "is_usage": isinstance(outcome, UsageError)}
        case result:
            value = {"result": result}
    return json.dumps(value)


def decoded(text: str) -> Outcome:
    """From `encoded`."""
    value = json.loads(text)
    if "later" in value:
        return TryLater(value["later"], value["wait_s"], is_overload=value["is_overload"])
    if "error" in value:
        error = value["error"]
        return ItemError(error.pop("message"), **error, is_final=value["is_final"])
    if "fault" in value:
        return (UsageError if value["is_usage"] else PhiVisionError)(value["fault"])
    result: Outcome = value["result"]
    return result
