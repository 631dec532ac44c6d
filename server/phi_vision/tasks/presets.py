"""The task presets. To add a task, add a row to `PRESETS`.

The served names, `/v1/tasks`, the routes and the command line read the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phi_vision.spec import PHI_3_5_VISION

TYPICAL_ANSWER_TOKENS = 512  # what the server's capacity is reckoned with


@dataclass(frozen=True)
class Preset:
    """What a task adds to a chat request where the client sets nothing.

    Args:
        description: for people, one sentence.
        prompt: text for a message without any; None: the client must ask a question.
        fields: of the chat request, sampling and `response_format` among them. `max_tokens` gives way to a
            shorter context.
        system: the system message.
        ends_loops: whether an answer ends that repeats itself for ever (`documents.loops`), as those of small
            vision models can on dense pages.
    """

    description: str
    prompt: str | None
    fields: Mapping[str, Any]
    system: str | None = None
    ends_loops: bool = False


PRESETS: Mapping[str, Preset] = {
    "caption": Preset(
        description="Says in a sentence or two what the picture shows.",
        prompt="Describe the image in one or two sentences.",
        fields={"temperature": 0.0, "max_tokens": 128},
    ),
    "ocr": Preset(
        description="Reads the text in the picture.",
        prompt="Read all text in the image. Answer with the text only, line by line, as it is written.",
        fields={"temperature": 0.0, "max_tokens": 2048},
        ends_loops=True,
    ),
    "vqa": Preset(
        description="Answers a question about the picture.",
        prompt=None,
        fields={"temperature": 0.0, "max_tokens": 256},
        system="Answer the question from what the image shows, in as few words as it takes.",
    ),
}


def describe(served_names: Iterable[str]) -> dict[str, Any]:
    """The presets as JSON, for `GET /v1/tasks`; `models` are the names that a task is served under."""
    names = list(served_names)
    tasks = [
        {
            "id": task,
            "description": preset.description,
            "prompt": preset.prompt,
            "system": preset.system,
            "ends_loops": preset.ends_loops,
            "response_format": None,
            **preset.fields,
            "stop_tokens": list(PHI_3_5_VISION.stop_tokens),
            "models": [name for name in names if task_of(name) == task],
        }
        for task, preset in PRESETS.items()
    ]
    return {"object": "list", "data": tasks}


def model_names(base: str) -> list[str]:
    """The names one model is served under: its own, then one a task."""
    return [base, *(f"{base}:{task}" for task in PRESETS)]


def task_of(model_name: str) -> str | None:
    """The task that a model's name ends with, if it does."""
    suffix = model_name.rpartition(":")[2]
    return suffix if suffix in PRESETS else None
