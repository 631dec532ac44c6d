"""What is sent: seeded chat requests with pictures, one kind of work a name.

Every request has pictures of its own, so that no cache flatters the figures; `distinct=False` sends
one picture again and again, which shows what the caches give.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from phi_vision.tasks.presets import PRESETS
from PIL import Image

from benchmarks.harness import drawing


@dataclass(frozen=True)
class Workload:
    """One kind of work: a task of the server, pictures to do it on, and how long an answer is."""

    task: str
    draw: Callable[[Random], list[Image.Image]]
    sizes: tuple[tuple[int, int], ...]  # (width, height) of the pictures of one request
    output_tokens: int  # of a fixed-length run
    lossy: bool = False  # JPEG, as cameras write; else PNG
    question: str | None = None  # instead of the preset's prompt

    @property
    def pictures(self) -> int:
        """Pictures in one request."""
        return len(self.sizes)


WORKLOADS: Mapping[str, Workload] = {
    "caption": Workload("caption", lambda rng: [drawing.photo(rng)], ((1920, 1080),), 64, lossy=True),
    "ocr": Workload("ocr", lambda rng: [drawing.page(rng)], ((1240, 1754),), 256),
    "vqa": Workload(
        "vqa",
        lambda rng: [drawing.chart(rng)],
        ((1000, 640),),
        16,
        question="Which month has the highest bar?",
    ),
    "invoice": Workload("ocr", lambda rng: [drawing.invoice(rng)], ((800, 600),), 128),
    "frames": Workload(
        "caption", drawing.frames, ((640, 360),) * 4, 64, lossy=True, question="What happens in these frames?"
    ),
}


def write_jsonl(path: Path, bodies: Iterable[dict[str, Any]]) -> None:
    """Write request bodies as JSON lines, the form that AIPerf sends as they are."""
    with path.open("w") as file:
        for body in bodies:
            file.write(json.dumps(body) + "\n")


def fixed_length(tokens: int, letter_tokens: list[int] | None = None) -> dict[str, Any]:
    """Fields that give every answer this number of tokens, whatever the weights say.

    `ignore_eos` and `min_tokens` hold off all ends, the loop detection of the OCR preset is off, and
    each token shows as text (see `Server.letter_tokens`). All are vLLM's.
    """
    fields = {
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "repetition_detection": {"max_pattern_size": 0},
    }
    return fields | ({"allowed_token_ids": letter_tokens} if letter_tokens else {})


def requests(
    name: str,
    count: int,
    seed: str,
    model: str,
    *,
    fixed: Mapping[str, Any] | None,
    distinct: bool = True,
) -> Iterator[dict[str, Any]]:
    """Streaming chat requests of one workload.

    Prompts are written out, so that a server without task presets gets the same words. `fixed` are
    the fields of `fixed_length`; None lets the model end its answers.
    """
    workload = WORKLOADS[name]
    preset = PRESETS[workload.task]
    for i in range(count):
        rng = Random(f"{name}-{seed}-{i if distinct else 0}")
        parts = [image_part(image, workload.lossy) for image in workload.draw(rng)]
        messages = [{"role": "user", "content": [*parts, text_part(workload.question or preset.prompt)]}]
        if preset.system:
            messages.insert(0, {"role": "system", "content": preset.system})
        yield {
            "model": model,
            "messages": messages,
            "max_tokens": preset.fields["max_tokens"],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **(fixed or {}),
        }


def text_part(text: str | None) -> dict[str, Any]:
    """Text as a content part of a chat message."""
    return {"type": "text", "text": text}


def image_part(image: Image.Image, lossy: bool) -> dict[str, Any]:
    """A picture as a content part, in its own bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if lossy else "PNG", **({"quality": 88} if lossy else {}))
    mime = "image/jpeg" if lossy else "image/png"
    url = f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
