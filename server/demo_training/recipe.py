"""What is trained in which order. Reading glyphs comes first: nothing else works before they are legible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypeVar

from phi_vision.tasks.presets import PRESETS

from demo_training import questions
from demo_training.labels import CELLS
from demo_training.pictures import (
    PRINT_EM,
    SMALL_PRINT_EM,
    SMALL_PRINT_PX,
    Drawing,
    draw_page,
    draw_shapes,
    draw_stranger,
    draw_text,
)
from demo_training.samples import Sample
from demo_training.views import PAGE_SIDE, see, windows

Kind = Literal["page", "other size", "text", "small", "shapes", "stranger", "two", "none"]
Trained = Literal["vision", "text", "all"]
_Choice = TypeVar("_Choice")

SYSTEM_SHARE = 0.4  # of samples have the vqa task's system prompt
_WINDOWS = 6  # views of a page
_MARGIN = 0.06  # by which the sizes of training exceed the domain
_SMALL_SHARE = 0.5  # of pages of 16 crops are in print that only the crops show large enough
_OTHER_EM = ((4.0, 17.0), (46.0, 130.0))  # print that the tower must not read


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one mixture of pictures and one learning-rate curve."""

    name: str
    steps: int
    batch: int  # samples a step
    kinds: Mapping[Kind, float]  # shares of what is drawn
    trained: Trained = "all"
    crops: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})  # shares of num_crops of a step
    rate: float = 2e-3
    final_rate: float = 0.1  # share of `rate` that is left at the end
    aux_weight: float = 0.3
    looking_weight: float = 0.3
    gaps: float = 0.3  # chance of a gap behind each piece of text on a page
    # Shares of how many blank cells of a view the text model is shown; 144: every cell, as in service.
    blanks: Mapping[int, float] = field(default_factory=lambda: {6: 1.0})


STAGES = (
    # Pages full of letters, hundreds a page; the tower and the projector only.
    Stage(
        "glyphs",
        4200,
        4,
        {"page": 0.56, "other size": 0.12, "text": 0.08, "shapes": 0.22, "stranger": 0.02},
        trained="vision",
        crops={1: 0.6, 4: 0.25, 16: 0.15},
        aux_weight=1.0,
        final_rate=0.02,
    ),
    # The text model learns to find what is said next, from a tower that stays as it is.
    Stage(
        "copy",
        1500,
        24,
        {"text": 0.46, "small": 0.04, "shapes": 0.35, "stranger": 0.03, "none": 0.02, "two": 0.1},
        trained="text",
        crops={1: 0.55, 4: 0.32, 16: 0.13},
        looking_weight=0.5,
        blanks={5: 0.5, 12: 0.42, 144: 0.08},
    ),
    # Tower and text model together, mostly with every cell.
    Stage(
        "together",
        1150,
        24,
        {"text": 0.47, "small": 0.04, "shapes": 0.34, "stranger": 0.03, "none": 0.02, "two": 0.1},
        crops={1: 0.5, 4: 0.35, 16: 0.15},
        rate=8e-4,
        final_rate=0.02,
        looking_weight=0.5,
        blanks={12: 0.4, 144: 0.6},
    ),
)

# Small enough for a processor that is slow in bfloat16, in which Muon works.
SMOKE = (
    Stage("glyphs", 20, 1, {"page": 0.8, "shapes": 0.2}, trained="vision", aux_weight=1.0),
    Stage("answers", 20, 3, {"text": 0.5, "shapes": 0.5}),
)


def draw_samples(rng: Random, stage: Stage) -> tuple[list[Sample], int]:
    """The samples of a step, from the state of `rng` alone, and the blank cells that are shown of a view.

    All have as many crops, thus are alike in length; with every cell shown there are fewer of them.
    """
    num_crops = _weighted(rng, stage.crops)
    blanks = _weighted(rng, stage.blanks) if stage.trained != "vision" else 0
    whole = blanks == CELLS**2
    count = stage.batch // (1 if not whole else 2 if num_crops < 16 else 6)
    thin = None if whole else rng
    return [_draw_sample(rng, stage, num_crops, thin) for _ in range(count)], blanks


def _draw_sample(rng: Random, stage: Stage, num_crops: int, thin: Random | None) -> Sample:
    kind = _weighted(rng, stage.kinds)
    system = PRESETS["vqa"].system if rng.random() < SYSTEM_SHARE else None
    if kind == "none":
        return Sample([], [questions.about_nothing(rng)], system)
    if kind in ("page", "other size"):
        em = _widened(PRINT_EM) if kind == "page" else rng.choice(_OTHER_EM)
        zoom = max(1.0, 8 / em[0]) * 2 ** rng.uniform(0, 1.0 if em[1] < 100 else 0.3)
        page = draw_page(rng, em=em, zoom=zoom, side=PAGE_SIDE, gaps=stage.gaps)
        return Sample([windows(rng, page, round(num_crops**0.5), _WINDOWS)], [])
    if kind == "two":
        pair = (
            _draw(rng, rng.choice(("text", "shapes"))),
            _draw(rng, rng.choice(("text", "shapes"))),
        )
        asked = questions.about_two(rng, pair)[:5]
        return Sample([see(drawing, min(num_crops, 4), thin) for drawing in pair], asked, system)
    if kind == "text" and num_crops == 16 and rng.random() < _SMALL_SHARE:
        kind = "small"
    drawing = _draw(rng, kind)
    seen = see(drawing, num_crops, thin)
    if stage.trained == "vision":
        return Sample([seen], [])
    legible = bool(drawing.lines and seen.reading_view(drawing.em_px))
    return Sample([seen], questions.about_one(rng, drawing, legible), system)


def _draw(rng: Random, kind: str) -> Drawing:
    match kind:
        case "text":
            return draw_text(rng, em=_widened(PRINT_EM), lines=(1, 1) if rng.random() < 0.3 else (2, 4))
        case "small":
            return draw_text(rng, em=SMALL_PRINT_EM, long_px=SMALL_PRINT_PX)
        case "shapes":
            return draw_shapes(rng)
        case _:
            return draw_stranger(rng)


def _widened(em: tuple[float, float]) -> tuple[float, float]:
    return em[0] * (1 - _MARGIN), em[1] * (1 + _MARGIN)


def _weighted(rng: Random, shares: Mapping[_Choice, float]) -> _Choice:
    return rng.choices(list(shares), list(shares.values()))[0]
