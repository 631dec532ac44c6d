"""A question of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ALL = "all"  # the name of the whole beside its parts


@dataclass(frozen=True)
class Question:
    """What is asked about one or more pictures, and what is right.

    Args:
        key: its name, unique in the data set.
        images: paths.
        task: a preset's name.
        text: of the user; None: the task's own prompt.
        answers: any of them is right.
        metrics: names of `metrics.METRICS`; the first says how bad an answer is.
        part: of the data set, which gets a score of its own.
        extra_body: more fields of the request.
    """

    key: str
    images: tuple[str, ...]
    task: str
    text: str | None
    answers: tuple[str, ...]
    metrics: tuple[str, ...]
    part: str = ""
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> dict[str, Any]:
        """What is asked, JSON: an item of the queue. Without what is right."""
        return {
            "images": list(self.images),
            "task": self.task,
            "text": self.text,
            "extra_body": dict(self.extra_body),
        }

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)
