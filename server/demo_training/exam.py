"""The demo's exam, pictures that were never trained on, as a data set: `python -m demo_training.exam FOLDER`.

`make eval-demo` draws it and has a server answer. Texts are made of words kept out of training and of random
strings; scenes come from seeds that training does not use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from demo_training import questions
from demo_training.pictures import (
    HELD_OUT_WORDS,
    PRINT_EM,
    SMALL_PRINT_EM,
    SMALL_PRINT_PX,
    Drawing,
    draw_shapes,
    draw_stranger,
    draw_text,
)

_MAX_TOKENS = 100  # of an answer
_READING = ("ocr", "small print", "order-read")  # parts whose answers are judged by their characters too
_SEEDS = "exam-2"  # of the pictures behind the published figures; those of "exam" shaped the recipe


@dataclass(frozen=True)
class Item:
    """One question of the exam."""

    part: str  # what it counts for
    task: str
    pictures: tuple[Image.Image, ...]
    text: str | None  # None: the preset's own
    answer: str
    num_crops: int | None = None  # None: the server's choice


def paper(count: int, seeds: str = _SEEDS) -> Iterator[Item]:
    """The exam, the same every time: `count` pictures a part, drawn from seeds that begin with `seeds`."""
    for num_crops in (1, 4, 16):
        for i in range(count):
            page = _page(f"{seeds}-ocr-{i}")
            answer = "\n".join(page.lines)
            yield Item(f"ocr, {num_crops} crops", "ocr", (page.image,), None, answer, num_crops)
    for i in range(count):
        page = small_print(f"{seeds}-small-{i}")
        answer = "\n".join(page.lines)
        yield Item("small print, 16 crops", "ocr", (page.image,), None, answer, 16)
        yield Item("too small, 1 crop", "ocr", (page.image,), None, questions.UNREADABLE, 1)
    for i in range(count):
        rng = Random(f"{seeds}-scene-{i}")
        scene = draw_shapes(rng)
        yield Item("caption", "caption", (scene.image,), None, questions.caption(scene))
        asked = questions.about_one(rng, scene, legible=True)
        for kind in ("color", "shape", "count", "yes-no"):
            for question in [q for q in asked if q.kind == kind][:1]:
                yield Item(kind, "vqa", (scene.image,), question.text, question.answer)
    for i in range(count):
        rng = Random(f"{seeds}-order-{i}")
        pair = _page(f"{seeds}-order-{i}"), draw_shapes(rng, most=2)
        pair = pair if rng.random() < 0.5 else pair[::-1]
        pair = pair if rng.random() < 0.5 else (draw_shapes(rng, most=1), draw_shapes(rng, most=1))
        asked = questions.about_two(rng, pair)
        for kind in ("order", "order-read"):
            for question in [q for q in asked if q.kind == kind][:1]:
                images = tuple(drawing.image for drawing in pair)
                yield Item(kind, "vqa", images, question.text, question.answer)
    for i in range(count):
        rng = Random(f"{seeds}-stranger-{i}")
        yield Item("outside the domain", "caption", (draw_stranger(rng).image,), None, questions.UNKNOWN)


def write(folder: Path, count: int, seeds: str = _SEEDS) -> Path:
    """The exam as a data set for `make eval`: pictures, and a JSONL file, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "exam.jsonl"
    with target.open("w") as file:
        for number, item in enumerate(paper(count, seeds)):
            crops = {"mm_processor_kwargs": {"num_crops": item.num_crops}} if item.num_crops else {}
            line = {
                "id": f"{item.part} {number}",
                "part": item.part,
                "task": item.task,
                "image": [_saved(picture, folder) for picture in item.pictures],
                **({} if item.text is None else {"question": item.text}),
                "answers": [item.answer],
                "metrics": ["exact", "cer"] if item.part.startswith(_READING) else ["exact"],
                "extra_body": {"max_tokens": _MAX_TOKENS, **crops},
            }
            file.write(json.dumps(line) + "\n")
    return target


def _saved(picture: Image.Image, folder: Path) -> str:
    """The name of its file; the same pictures are one file."""
    name = f"{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}.png"
    if not (folder / name).exists():
        picture.save(folder / name)
    return name


def small_print(seed: str, lines: tuple[int, int] = (1, 4)) -> Drawing:
    """A page of unseen words that only its crops show large enough to read."""
    return draw_text(
        Random(seed), em=SMALL_PRINT_EM, lines=lines, words=HELD_OUT_WORDS, long_px=SMALL_PRINT_PX
    )


def _page(seed: str) -> Drawing:
    return draw_text(Random(seed), em=PRINT_EM, words=HELD_OUT_WORDS)


def main() -> None:
    """Parse the arguments and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for the pictures and exam.jsonl")
    parser.add_argument("--count", type=int, default=60, help="pictures a part (default: %(default)s)")
    parser.add_argument(
        "--seeds",
        default=_SEEDS,
        help="while you work on training take others than %(default)s, which are for its figures",
    )
    args = parser.parse_args()
    print(write(args.folder, args.count, args.seeds))


if __name__ == "__main__":
    main()
