"""The task presets. To add a task, add a row to `PRESETS`.

The served names, `/v1/tasks`, the routes and the command line read the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from phi_vision.spec import PHI_3_5_VISION


@dataclass(frozen=True)
class Preset:
    """What a task fills in where the client is silent."""

    description: str
    prompt: str | None  # stands in for missing text; None: the client must ask
    system: str | None = None
    max_tokens: int = 512  # of the answer; less where the context ends sooner
    temperature: float = 0.0
    # vLLM's loop detection; small vision models can repeat a line for ever when they read dense pages.
    repetition_detection: Mapping[str, int] | None = None
    stop_tokens: tuple[str, ...] = PHI_3_5_VISION.stop_tokens


PRESETS: Mapping[str, Preset] = {
    "caption": Preset(
        description="Says in a sentence or two what the picture shows.",
        prompt="Describe the image in one or two sentences.",
        max_tokens=128,
    ),
    "ocr": Preset(
        description="Reads the text in the picture.",
        prompt="Read all text in the image. Answer with the text only, line by line, as it is written.",
        max_tokens=2048,
        repetition_detection={"max_pattern_size": 50, "min_pattern_size": 1, "min_count": 10},
    ),
    "vqa": Preset(
        description="Answers a question about the picture.",
        prompt=None,
        system="Answer the question from what the image shows, in as few words as it takes.",
        max_tokens=256,
    ),
}


def describe() -> dict[str, Any]:
    """The presets as JSON, for `GET /v1/tasks`."""
    return {"object": "list", "data": [{"id": name, **asdict(preset)} for name, preset in PRESETS.items()]}


def model_names(base: str) -> list[str]:
    """The names one model is served under: its own, then one a task."""
    return [base, *(f"{base}:{task}" for task in PRESETS)]
