"""What is trained in which order. Reading glyphs comes first: nothing else works before they are legible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from demo_model import questions
from demo_model.pictures import Drawing, draw_shapes, draw_stranger, draw_text
from demo_model.samples import Sample, see

Kind = Literal["page", "text", "small", "shapes", "stranger", "two", "none"]
Trained = Literal["vision", "text", "all"]

SYSTEM_SHARE = 0.4  # of samples have the vqa task's system prompt


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one mixture of pictures and one learning-rate curve."""

    name: str
    steps: int
    batch: int  # samples a step
    kinds: Mapping[Kind, float]  # shares of what is drawn
    trained: Trained = "all"
    crops: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})  # shares of num_crops
    rate: float = 2e-3
    final_rate: float = 0.1  # share of `rate` that is left at the end
    aux_weight: float = 0.3
    overview_only: bool = False  # leave the crops out
    blanks: tuple[int, ...] = (6,)  # blank cells of a view that the text model is shown; 144: all
    em: tuple[float, float] = (17.0, 36.0)  # font sizes of `text`, pixels of the global view
    page_em: tuple[float, float] = (15.0, 39.0)  # of `page`


STAGES = (
    # Pages full of letters, a hundred a picture; the tower and the projector only.
    Stage(
        "glyphs",
        1600,
        16,
        {"page": 0.85, "shapes": 0.12, "stranger": 0.03},
        trained="vision",
        crops={1: 0.85, 16: 0.15},
        overview_only=True,
    ),
    Stage(
        "letters",
        500,
        16,
        {"page": 0.8, "shapes": 0.17, "stranger": 0.03},
        trained="vision",
        crops={1: 0.85, 16: 0.15},
        overview_only=True,
        rate=6e-4,
    ),
    # The text model learns to find and copy, from a tower that stays as it is.
    Stage(
        "answers",
        450,
        32,
        {"text": 0.58, "shapes": 0.34, "stranger": 0.03, "none": 0.02, "two": 0.03},
        trained="text",
        crops={1: 0.9, 16: 0.1},
        overview_only=True,
        blanks=(6, 6, 6, 24),
        final_rate=0.3,
    ),
    # Both together: the tower learns what the answers need.
    Stage(
        "together",
        900,
        24,
        {"page": 0.15, "text": 0.5, "shapes": 0.27, "stranger": 0.03, "none": 0.02, "two": 0.03},
        crops={1: 0.85, 16: 0.15},
        overview_only=True,
        rate=1e-3,
        blanks=(6, 6, 24, 144),
    ),
)

SMOKE = (
    Stage("glyphs", 40, 8, {"page": 0.8, "shapes": 0.2}, trained="vision", overview_only=True),
    Stage("answers", 30, 8, {"text": 0.5, "shapes": 0.5}),
)


def draw_sample(rng: Random, stage: Stage) -> Sample:
    """One sample of a stage, from the state of `rng` alone."""
    kind = rng.choices(list(stage.kinds), list(stage.kinds.values()))[0]
    num_crops = rng.choices(list(stage.crops), list(stage.crops.values()))[0]
    system = questions.PRESETS["vqa"].system if rng.random() < SYSTEM_SHARE else None
    thin = None if stage.blanks == (144,) else rng
    if kind == "none":
        return Sample([], [questions.about_nothing(rng)], system)
    if kind == "page":
        page = draw_text(rng, em=stage.page_em, fill_page=True)
        return Sample([see(page, num_crops, overview_only=True)], [])
    if kind == "two":
        pair = (
            _draw(rng, rng.choice(("text", "shapes")), stage),
            _draw(rng, rng.choice(("text", "shapes")), stage),
        )
        asked = questions.about_two(rng, pair)[:5]
        return Sample(
            [see(drawing, min(num_crops, 4), stage.overview_only, thin=thin) for drawing in pair],
            asked,
            system,
        )
    drawing = _draw(rng, kind, stage)
    seen = see(drawing, num_crops, stage.overview_only, thin=thin)
    if stage.trained == "vision":
        return Sample([seen], [])
    em_px = drawing.em * (1 if stage.overview_only else max(seen.rows, seen.columns))  # in the largest view
    return Sample([seen], questions.about_one(rng, drawing, legible=em_px >= questions.LEGIBLE_EM_PX), system)


def _draw(rng: Random, kind: str, stage: Stage) -> Drawing:
    match kind:
        case "text":
            return draw_text(rng, em=stage.em, lines=(1, 1) if rng.random() < 0.3 else (2, 4))
        case "small":
            return draw_text(rng, em=(5.0, 12.0))
        case "shapes":
            return draw_shapes(rng)
        case _:
            return draw_stranger(rng)
