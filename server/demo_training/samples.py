"""Views and questions as tensors: the patches that the tower sees, and the token sequence around them.

Two savings make training on a CPU quick. Most cells of most views are blank, so the text model is
shown the others and a few blank ones only. And all questions about a picture share one sequence: each
is a branch that sees the picture and itself only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cache
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from demo_training.labels import CELLS, IGNORED
from demo_training.questions import Question
from demo_training.tower import SIDE
from demo_training.views import Views

Cell = tuple[int, int, int, int]  # sample, picture, view, cell


@dataclass
class Batch:
    """What the network takes. A feature is a row of its image table; -1 where a token stands instead."""

    patches: Tensor  # (views, 24, 24, 588)
    glyphs: Tensor  # int64, (views, 144, GLYPH_SLOTS)
    marks: Tensor  # int64, (views, 144, 2)
    tokens: Tensor  # int64, (batch, tokens)
    features: Tensor  # int64, (batch, tokens)
    positions: Tensor  # int64, (batch, tokens)
    branches: Tensor  # int64, (batch, tokens): 0 is seen by all, -1 is padding
    targets: Tensor  # int64, (batch, tokens): the next token of an answer, else ignored
    sources: Tensor  # int64, (batch, tokens): index of the cell that shows that token, or -1
    long_rope: bool = False

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass
class Sample:
    """Pictures, and the questions asked about them together."""

    pictures: list[Views]
    questions: list[Question]
    system: str | None = None


def collate(
    rng: Random,
    samples: list[Sample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    blanks: int,
    long_rope: bool = False,
) -> Batch:
    """Put samples together.

    Args:
        rng: chooses the blank cells.
        samples: what the batch holds.
        tokenizer: the demo's own.
        blanks: how many blank cells of each view the text model is shown; 144: all.
        long_rope: train LongRoPE's long factors.
    """
    patches: list[np.ndarray] = []
    glyphs: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    row_of: dict[Cell, int] = {}
    for s, sample in enumerate(samples):
        for p, picture in enumerate(sample.pictures):
            for view, busy in enumerate(picture.busy):
                if sample.questions:
                    shown = _shown(rng, busy, blanks)
                    if not len(shown):
                        continue  # a blank crop
                    row_of |= {(s, p, view, cell): len(patches) * CELLS**2 + cell for cell in shown.tolist()}
                patches.append(picture.patches[view])
                glyphs.append(picture.glyphs[view])
                marks.append(picture.marks[view])
    rows = len(patches) * CELLS**2
    sequences = [_sequence(samples[s], s, row_of, rows, tokenizer) for s in range(len(samples))]
    length = -(-max(len(tokens) for tokens, *_ in sequences) // 32) * 32
    padding = (tokenizer.pad_token_id, -1, 0, -1, IGNORED, -1)
    tokens, features, positions, branches, targets, sources = (
        torch.tensor([seq[i] + [pad] * (length - len(seq[i])) for seq in sequences])
        for i, pad in enumerate(padding)
    )
    pixels, letters, shapes = (
        torch.from_numpy(np.stack(each)) if patches else torch.empty(0, *shape)
        for each, shape in ((patches, (SIDE, SIDE, 588)), (glyphs, (CELLS**2, 1)), (marks, (CELLS**2, 2)))
    )
    return Batch(
        *(pixels, letters, shapes),
        *(tokens, features, positions, branches, targets, sources),
        long_rope=long_rope,
    )


@cache
def chat_ids(
    tokenizer: PreTrainedTokenizerBase, system: str | None, num_pictures: int, text: str
) -> list[list[int]]:
    """Token ids of a chat between its pictures, as the published processor makes them."""
    tags = "".join(f"<|image_{i + 1}|>\n" for i in range(num_pictures))
    before = f"<|system|>\n{system}<|end|>\n" if system else ""
    chat = f"{before}<|user|>\n{tags}{text}<|end|>\n<|assistant|>\n"
    return [tokenizer(chunk).input_ids for chunk in re.split(r"<\|image_\d+\|>", chat)]


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Token ids of an answer, its end included, without the space that begins a text."""
    ids = tokenizer("\n" + answer, add_special_tokens=False).input_ids
    newline = tokenizer.convert_tokens_to_ids("<0x0A>")
    return [*ids[ids.index(newline) + 1 :], tokenizer.convert_tokens_to_ids("<|end|>")]


def _shown(rng: Random, busy: np.ndarray, blanks: int) -> np.ndarray:
    """The busy cells and some blank ones, in order; of crops that are not shown at all, none."""
    if not busy.any() and blanks < CELLS**2 and rng.random() < 0.7:
        return np.empty(0, np.int64)
    blank = np.flatnonzero(~busy).tolist()
    spare = rng.sample(blank, min(blanks, len(blank)))
    return np.sort(np.concatenate([np.flatnonzero(busy), np.array(spare, np.int64)]))


def _sequence(
    sample: Sample,
    index: int,
    row_of: dict[Cell, int],
    rows: int,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int], list[int], list[int], list[int], list[int], list[int]]:
    """tokens, features, positions, branches, targets and sources of one sample."""
    tokens: list[int] = []
    features: list[int] = []
    positions: list[int] = []
    place_of: dict[tuple[int, int, int], int] = {}  # picture, view, cell -> index in the sequence
    at = 0

    def put_ids(ids: list[int]) -> None:
        nonlocal at
        tokens.extend(ids)
        features.extend([-1] * len(ids))
        positions.extend(range(at, at + len(ids)))
        at += len(ids)

    def put_feature(row: int | None) -> None:
        nonlocal at
        if row is not None:
            tokens.append(tokenizer.pad_token_id)
            features.append(row)
            positions.append(at)
        at += 1  # a cell that was left out keeps its place

    def put_rows(picture: int, grid: list[list[int]]) -> None:
        for token_row in range(len(grid) * CELLS):
            for view in grid[token_row // CELLS]:
                for column in range(CELLS):
                    cell = token_row % CELLS * CELLS + column
                    place_of[picture, view, cell] = len(tokens)
                    put_feature(row_of.get((index, picture, view, cell)))
            put_feature(rows)  # sub_GN

    count = len(sample.pictures)
    pieces = chat_ids(tokenizer, sample.system, count, sample.questions[0].text if sample.questions else "")
    for number, picture in enumerate(sample.pictures if sample.questions else []):
        put_ids(pieces[number])
        first = 1 if len(picture.patches) > 1 else 0  # one crop looks like the global view, and is it
        crops = first + np.arange(picture.rows * picture.columns).reshape(picture.rows, -1)
        put_rows(number, crops.tolist())
        put_feature(rows + 1)  # glb_GN
        put_rows(number, [[0]])
    start = at
    branches = [0] * len(tokens)
    targets = [IGNORED] * len(tokens)
    sources = [-1] * len(tokens)
    for branch, question in enumerate(sample.questions, 1):
        at = start
        asked = chat_ids(tokenizer, sample.system, count, question.text)[-1]
        answer = answer_ids(tokenizer, question.answer)
        put_ids([*asked, *answer[:-1]])
        branches += [branch] * (len(tokens) - len(branches))
        targets += [IGNORED] * (len(asked) - 1) + answer
        sources += [-1] * (len(asked) - 1) + _sources(sample, question, answer, place_of, tokenizer)
    return tokens, features, positions, branches, targets, sources


def _sources(
    sample: Sample,
    question: Question,
    answer: list[int],
    place_of: dict[tuple[int, int, int], int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[int]:
    """For each token of an answer the place in the sequence of the cell that shows what it says, or -1."""
    found = [-1] * len(answer)
    end = 0
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(answer)):
        start, end = end, end + (1 if token.startswith("<") else len(token))
        for offset in range(start, end):
            spot = question.spots.get(offset)
            if spot is None:
                continue
            picture = sample.pictures[spot.picture]
            for view in picture.reading_view(spot.em_px):
                cell = int(picture.frames[view].cells(np.array([spot.x]), np.array([spot.y]))[0])
                if picture.busy[view, cell] and cell >= 0:
                    found[i] = place_of[spot.picture, view, cell]
    return found
