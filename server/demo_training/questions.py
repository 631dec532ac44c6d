"""What is asked about a drawing, and the right answer, in the words of the task presets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from phi_vision.tasks.presets import PRESETS

from demo_training.pictures import COLORS, SHAPES, Drawing

UNREADABLE = "Too small to read."
UNKNOWN = "I do not know."
NO_PICTURE = "Send a picture: this is a small demo model."

ORDINALS = ("first", "second")
_READ = ("What does it say?", "What is written here?", "Read the text.")
_DESCRIBE = ("Describe the picture.", "What is in the picture?", "What do you see?")
_STRANGE = (
    "Who is this?", "What is the capital of France?", "Why is the sky blue?", "Write a poem.",
    "How old is she?", "Where was this taken?", "What time is it?", "Tell me a story.", "Is it raining?",
)  # fmt: skip
_NO_PICTURE = ("Hello", "Hi", "Hello, who are you?", "Say something.", "What can you do?", *_STRANGE)


@dataclass(frozen=True)
class Spot:
    """A place in a picture that an answer speaks of, in pixels of the picture."""

    picture: int
    x: float
    y: float
    em_px: float = 0.0  # of print: its font size, which tells in which view to look


@dataclass(frozen=True)
class Question:
    """A turn of the user and the answer to it."""

    kind: str  # what the exam counts it as
    text: str
    answer: str
    spots: Mapping[int, Spot] = field(default_factory=dict)  # offset in the answer -> what is said there


def about_one(rng: Random, drawing: Drawing, legible: bool) -> list[Question]:
    """Questions about a single picture, the presets' own among them.

    Args:
        rng: chooses wordings and what is asked.
        drawing: what the picture shows.
        legible: whether its text is large enough in any view.
    """
    caption_prompt, ocr_prompt = PRESETS["caption"].prompt, PRESETS["ocr"].prompt
    assert caption_prompt and ocr_prompt
    describe = rng.choice((caption_prompt, caption_prompt, *_DESCRIBE))
    asked = [Question("caption", describe, caption(drawing), _caption_spots(drawing))]
    if drawing.lines:
        kind, wording = ("ocr", ocr_prompt) if rng.random() < 0.6 else ("read", rng.choice(_READ))
        reading = reads(kind, wording, drawing) if legible else Question(kind, wording, UNREADABLE)
        asked.insert(0, reading)
    else:
        asked.append(Question("ocr", ocr_prompt, "There is no text."))
    if drawing.shapes:
        about_shapes = list(_shape_questions(rng, drawing))
        rng.shuffle(about_shapes)
        asked += about_shapes[:6]
    elif rng.random() < 0.3:
        asked.append(Question("count", f"How many {rng.choice(SHAPES)}s are there?", "0"))
    if rng.random() < 0.15:
        asked.append(Question("strange", rng.choice(_STRANGE), UNKNOWN))
    return asked


def about_two(rng: Random, drawings: tuple[Drawing, Drawing]) -> list[Question]:
    """Questions whose answers depend on which picture came first."""
    asked = []
    for number, ordinal in enumerate(ORDINALS):
        this, other = drawings[number], drawings[1 - number]
        if this.lines:
            asked.append(reads("order-read", f"What does the {ordinal} picture say?", this, number))
        elif this.shapes:
            spots = _caption_spots(this, number)
            asked.append(
                Question("order-caption", f"What is in the {ordinal} picture?", caption(this), spots)
            )
        for kind in sorted({s.kind for s in this.shapes} - {s.kind for s in other.shapes}):
            asked.append(Question("order", f"Which picture shows the {kind}?", f"The {ordinal}"))
        for color in sorted({s.color for s in this.shapes} - {s.color for s in other.shapes}):
            asked.append(Question("order", f"Which picture shows something {color}?", f"The {ordinal}"))
        if this.lines and other.shapes:
            asked.append(Question("order", "Which picture shows text?", f"The {ordinal}"))
    rng.shuffle(asked)
    return asked


def reads(kind: str, text: str, drawing: Drawing, picture: int = 0) -> Question:
    """A question whose answer is the text of a drawing, the `picture`-th one sent."""
    printed = drawing.print
    assert printed is not None
    answer = "\n".join(drawing.lines)
    spots: dict[int, Spot] = {}
    for offset, x, y in zip(printed.offsets.tolist(), printed.x.tolist(), printed.y.tolist(), strict=True):
        spots[offset] = Spot(picture, x, y, drawing.em_px)
    for offset in range(len(answer) + 1):  # a space, a line's end and the end are seen where they begin
        if offset not in spots:
            spots[offset] = spots[offset - 1]
    return Question(kind, text, answer, spots)


def about_nothing(rng: Random) -> Question:
    """A chat without a picture."""
    return Question("no-picture", rng.choice(_NO_PICTURE), NO_PICTURE)


def caption(drawing: Drawing) -> str:
    """The one right caption."""
    if drawing.lines:
        return "A page with printed text."
    names = [f"a {shape.color} {shape.kind}" for shape in drawing.shapes]
    if not names:
        return UNKNOWN
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed[0].upper()}{listed[1:]}."


def _caption_spots(drawing: Drawing, picture: int = 0) -> dict[int, Spot]:
    """Where the colours and shapes of a caption are."""
    text = caption(drawing)
    spots: dict[int, Spot] = {}
    at = 0
    for shape in drawing.shapes:
        for word in (shape.color, shape.kind):
            at = text.index(word, at)
            spots[at] = Spot(picture, shape.x, shape.y)
    return spots


def _shape_questions(rng: Random, drawing: Drawing) -> Iterator[Question]:
    kinds = [s.kind for s in drawing.shapes]
    colors = [s.color for s in drawing.shapes]
    for shape in drawing.shapes:
        spots = {0: Spot(0, shape.x, shape.y)}
        if kinds.count(shape.kind) == 1:
            yield Question("color", f"What color is the {shape.kind}?", shape.color.capitalize(), spots)
        if colors.count(shape.color) == 1:
            yield Question("shape", f"What shape is {shape.color}?", shape.kind.capitalize(), spots)
    there = rng.random() < 0.6
    kind = rng.choice(kinds) if there else rng.choice(SHAPES)
    yield Question("count", f"How many {kind}s are there?", str(kinds.count(kind)))
    yield Question("count", "How many shapes are there?", str(len(kinds)))
    absent = [k for k in SHAPES if k not in kinds]
    if absent and rng.random() < 0.5:
        yield Question("yes-no", f"Is there a {rng.choice(absent)}?", "No")
    else:
        yield Question("yes-no", f"Is there a {rng.choice(kinds)}?", "Yes")
    if rng.random() < 0.5:
        shape = rng.choice(drawing.shapes)
        yield Question("yes-no", f"Is there a {shape.color} {shape.kind}?", "Yes")
    else:
        # A neighbour of the truth: one of its words is right.
        shape = rng.choice(drawing.shapes)
        color, kind = rng.choice(((rng.choice(list(COLORS)), shape.kind), (shape.color, rng.choice(SHAPES))))
        right = any((s.color, s.kind) == (color, kind) for s in drawing.shapes)
        yield Question("yes-no", f"Is there a {color} {kind}?", "Yes" if right else "No")


def vocabulary() -> list[str]:
    """Every sentence whose words the tokenizer should know as wholes."""
    prompts = [p for preset in PRESETS.values() for p in (preset.prompt, preset.system) if p]
    templates = [
        "What color is the", "What shape is", "How many are there", "How many shapes are there",
        "Is there a", "Which picture shows the", "Which picture shows something", "Which picture shows text",
        "What does the picture say", "What is in the picture", "A page with printed text", "There is no text",
        "and", "Yes No", "The", *ORDINALS, *COLORS, *(c.capitalize() for c in COLORS),
        *SHAPES, *(f"{s}s" for s in SHAPES), *(s.capitalize() for s in SHAPES),
        UNREADABLE, UNKNOWN, NO_PICTURE,
    ]  # fmt: skip
    return [*prompts, *templates, *_READ, *_DESCRIBE, *_NO_PICTURE]
