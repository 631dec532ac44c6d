"""The values of a run: what is asked, what came of it, and why an item is asked again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from phi_vision.errors import PhiVisionError

State = Literal["waiting", "asked", "done", "failed"]
STATES: tuple[State, ...] = ("waiting", "asked", "done", "failed")
Counts = dict[State, int]  # how many items are in each state

# Fields that have a request answered in pieces, or later. A line of a batch has one answer, at once.
NOT_IN_LINES = ("stream", "background")


@dataclass(frozen=True)
class Item:
    """One request of a run.

    Args:
        key: its name, unique in the run and the same at every start: `scans/a.pdf#3`, or the `custom_id` of a
            line of a batch file.
        request: JSON, what an `Ask` needs. Of a file: `source` and, for a document, `page` (from 1) and
            `pages`, if they could be counted. Of a line of a batch file: `method`, `url` and `body`.
    """

    key: str
    request: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """An item as the queue holds it.

    Args:
        number: its place in the run, from 0.
        item: what is asked.
        state: where it stands.
        attempts: how often an answer, or an error that counts, came back.
        result: of an item that is done: JSON, see `asking`.
        error: of one that failed: see `ItemError.as_json`.
    """

    number: int
    item: Item
    state: State
    attempts: int = 0
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


class TryLater(PhiVisionError):
    """No server takes the item now. That is not the item's fault and uses up none of its attempts.

    Args:
        message: why.
        wait_s: after which to ask again.
        is_overload: whether a server is there and full, so that less should be asked at once.
    """

    def __init__(self, message: str, wait_s: float, *, is_overload: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.is_overload = is_overload


class ItemError(PhiVisionError):
    """The item cannot be answered.

    Args:
        message: why, on one line.
        cause: a word to group by: `refused`, `unreadable`, `server`, `no answer`, `not read` (the model could
            not read the page).
        status: of HTTP.
        body: what the server answered, JSON, where that is part of the result: of a line of a batch file.
        is_final: whether asking again would bring the same.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: str,
        status: int | None = None,
        body: Mapping[str, Any] | None = None,
        is_final: bool = True,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.status = status
        self.body = body
        self.is_final = is_final

    def as_json(self) -> dict[str, Any]:
        """As the queue keeps it: `message`, `cause`, `status`, and `body` where there is one."""
        error = {"message": str(self), "cause": self.cause, "status": self.status}
        return error if self.body is None else error | {"body": self.body}


# Asks one item and returns its result, JSON. Raises TryLater or ItemError; any other error is one that each
# item would meet (a key that is refused, say): it ends the run, which keeps its place.
Ask = Callable[[Item], Awaitable[Mapping[str, Any]]]
