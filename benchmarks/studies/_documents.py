"""What `documents` reads, and the engine that it asks: pages of the demo's domain, a server's chat route."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from demo_training.pictures import HELD_OUT_WORDS, PRINT_EM, draw_text, random_text
from phi_vision.documents.answers import Answer
from phi_vision.media.pages import shown
from phi_vision.media.view import PageView
from phi_vision.model.canvas import Canvas, resize_and_pad
from PIL import Image, ImageDraw, ImageFont

DENSE_PX = 1000
DENSE_EM_PX = 24  # 8 pixels in the model's view of the whole page, a third of what it reads there
_COLUMNS, _BLOCKS, _LINES = 3, 4, 4
_LINE_PX = 36


@dataclass(frozen=True)
class Page:
    """A picture and what is printed on it."""

    image: Image.Image
    text: str


def large_print(seed: str) -> Page:
    """One to four lines, as the demo reads them."""
    drawing = draw_text(Random(seed), em=PRINT_EM, words=HELD_OUT_WORDS)
    return Page(drawing.image, "\n".join(drawing.lines))


def dense_page(seed: str) -> Page:
    """Three columns of four blocks of four lines, in print a third as large as the demo reads it."""
    rng = Random(seed)
    image = Image.new("RGB", (DENSE_PX, DENSE_PX), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(DENSE_EM_PX)
    lines = []
    for column in range(_COLUMNS):
        for block in range(_BLOCKS):
            x, y = 40 + column * (DENSE_PX - 40) / _COLUMNS, 90 + block * (DENSE_PX - 40) / _BLOCKS
            for line in range(_LINES):
                lines.append(_full_line(rng))
                pen.text((x, y + line * _LINE_PX), lines[-1], "black", font, "ls")
    return Page(image, "\n".join(lines))


def _full_line(rng: Random) -> str:
    while len(line := random_text(rng, HELD_OUT_WORDS, 16)) < 13:  # shorter ones make a table, no column
        pass
    return line


@dataclass
class Sheet:
    """A page as a `PageSource`, lying on the table turned."""

    image: Image.Image
    views: dict[str, tuple[Image.Image, int]] = field(default_factory=dict)  # by the canvas's key

    async def canvas(self, view: PageView, num_crops: int) -> Canvas:
        """As `PageSource`."""
        part = shown(self.image, view)
        picture = Image.new("RGB", view.frame.size(*part.size) if view.frame else part.size, "white")
        picture.paste(part, ((picture.width - part.width) // 2, (picture.height - part.height) // 2))
        key = f"{view} {num_crops}"
        self.views[key] = picture, num_crops
        return Canvas(resize_and_pad(picture, num_crops), *picture.size, num_crops, key)


def turned(image: Image.Image, rotation: int) -> Image.Image:
    """Clockwise, without loss."""
    return image.rotate(-rotation, expand=True)


def slanting(image: Image.Image, degrees: float) -> Image.Image:
    """Clockwise, on white that holds its corners."""
    return image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


@dataclass
class Engine:
    """A server's chat route as an `Ask` about one sheet; keeps all answers."""

    client: httpx.AsyncClient  # with base URL and key
    model: str
    sheet: Sheet
    answers: list[Answer] = field(default_factory=list)

    async def __call__(
        self,
        canvases: Sequence[Canvas],
        prompt: str | None,
        *,
        max_tokens: int,
        temperature: float,
        response_format: Mapping[str, Any] | None = None,
    ) -> Answer:
        """As `Ask`."""
        [canvas] = canvases
        image, num_crops = self.sheet.views[canvas.key]
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": 0,
            "logprobs": True,
            "mm_processor_kwargs": {"num_crops": num_crops},
        }
        response = await self.client.post("chat/completions", json=body)
        response.raise_for_status()
        answer = _answer(response.json())
        self.answers.append(answer)
        return answer


def _answer(body: Mapping[str, Any]) -> Answer:
    choice, usage = body["choices"][0], body["usage"]
    return Answer.from_logprobs(
        choice["message"]["content"] or "",
        [(token["token"], token["logprob"]) for token in choice["logprobs"]["content"]],
        finish_reason=choice["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )
