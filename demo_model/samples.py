"""Drawings and questions as tensors: the cells that the tower sees, and the token sequence around them.

Two savings make training on a CPU possible. Most cells of most views are blank, so the text model is
shown the others and a few blank ones only. And all questions about a picture share one sequence: each
is a branch that sees the picture and itself only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from random import Random

import numpy as np
import torch
from phi_vision.model.geometry import CROP_PX, canvas_tokens, crop_grid
from phi_vision.model.hd import overview, resize_and_pad, views
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from demo_model.labels import IGNORED, glyph_labels, shape_labels
from demo_model.pictures import Drawing
from demo_model.questions import Question

_BLANK_RANGE = 0.1  # of normalised pixels: below it a cell is plain
_PADDING = (255, 255, 255)
_THINNED = 12  # cells that are kept of a crop in which nothing can be read
_OVERVIEW_TOKENS = canvas_tokens(0, 0) - 1  # of the global view: its cells and the ends of its rows


Place = tuple[int, int, int, int]  # sample, picture, view, cell


@dataclass
class Views:
    """A picture as the tower sees it: the global view first, then the crops row by row.

    With one crop the global view is the crop, and stands here once.
    """

    cells: np.ndarray  # float16, (views, 144, 4 * 588): patches of a cell row by row, each (3, 14, 14)
    busy: np.ndarray  # bool, (views, 144): cells that show more than background
    glyphs: np.ndarray  # int64, (views, 144, GLYPH_SLOTS)
    shapes: np.ndarray  # int64, (views, 144, 2)
    rows: int  # crops
    columns: int
    overview_only: bool  # the text model, too, sees the global view only


@dataclass
class Batch:
    """What the network takes. A feature is a row of its image table; -1 where a token stands instead."""

    patches: Tensor  # (views, 144, 4, 588): the patches of each cell row by row
    glyphs: Tensor  # int64, (views, 144, GLYPH_SLOTS)
    shapes: Tensor  # int64, (views, 144, 2)
    tokens: Tensor  # int64, (batch, tokens)
    features: Tensor  # int64, (batch, tokens)
    positions: Tensor  # int64, (batch, tokens)
    branches: Tensor  # int64, (batch, tokens): 0 is seen by all, -1 is padding
    targets: Tensor  # int64, (batch, tokens): the next token of an answer, else ignored
    long_rope: bool = False

    def to(self, device: torch.device) -> Batch:
        """The batch on another device, pixels as floats."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved | {"patches": moved["patches"].float()})


@dataclass
class Sample:
    """Pictures, and the questions asked about them together."""

    pictures: list[Views]
    questions: list[Question]
    system: str | None = None


def see(
    drawing: Drawing,
    num_crops: int,
    overview_only: bool = False,
    thin: Random | None = None,
) -> Views:
    """Cut a drawing into views exactly as the server does, and label what they show.

    Args:
        drawing: the picture and the truth about it.
        num_crops: at most so many crops.
        overview_only: leave the crops out.
        thin: chooses the few cells that the text model is shown of crops in which nothing can be read.
    """
    image = drawing.image
    canvas = resize_and_pad(image, num_crops)  # (3, H, W)
    grid = crop_grid(image.width, image.height, num_crops)
    single = grid.rows == grid.columns == 1
    seen = overview(canvas)[None] if overview_only or single else views(canvas)  # (views, 3, 336, 336)
    cells = (
        seen.view(-1, 3, 12, 2, 14, 12, 2, 14)
        .permute(0, 2, 5, 3, 6, 1, 4, 7)
        .reshape(len(seen), 144, 4, 3, 196)
    )
    low, high = cells.amin(dim=(2, 4)), cells.amax(dim=(2, 4))  # (views, 144, 3)
    busy = (high - low).amax(-1) >= _BLANK_RANGE
    off = [(low - _normalized(c)).abs().amax(-1) >= _BLANK_RANGE for c in (image.getpixel((0, 0)), _PADDING)]
    busy |= off[0] & off[1]  # plain, but neither the picture's background nor padding
    scale = grid.resized_width / image.width, grid.resized_height / image.height
    squeeze = CROP_PX / grid.width, CROP_PX / grid.height
    frames = [((scale[0] * squeeze[0], scale[1] * squeeze[1]), grid.left * squeeze[0], grid.top * squeeze[1])]
    for row in range(grid.rows if len(seen) > 1 else 0):
        frames += [(scale, grid.left - c * CROP_PX, grid.top - row * CROP_PX) for c in range(grid.columns)]
    glyphs = np.stack([glyph_labels(drawing, *frame) for frame in frames])
    shapes = np.stack([shape_labels(drawing, *frame) for frame in frames])
    shapes[1:] = IGNORED  # a part of a shape does not tell which it is
    if thin is not None:
        for view in range(1, len(seen)):
            if not (glyphs[view] > 0).any():
                spare = busy[view].nonzero()[:, 0].tolist()
                thin.shuffle(spare)
                busy[view, spare[_THINNED:]] = False
    return Views(
        cells.reshape(len(seen), 144, -1).half().numpy(),
        busy.numpy(),
        glyphs,
        shapes,
        grid.rows,
        grid.columns,
        overview_only,
    )


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
    pixels, glyphs, shapes = [], [], []
    row_of: dict[Place, int] = {}
    for s, sample in enumerate(samples):
        for p, picture in enumerate(sample.pictures):
            for view, busy in enumerate(picture.busy):
                shown = _shown(rng, busy, blanks)
                if not len(shown) and sample.questions:
                    continue  # a blank crop
                row_of |= {(s, p, view, cell): len(pixels) * 144 + cell for cell in shown.tolist()}
                pixels.append(picture.cells[view])
                glyphs.append(picture.glyphs[view])
                shapes.append(picture.shapes[view])
    rows = len(pixels) * 144
    patches = (
        torch.from_numpy(np.stack(pixels)).view(-1, 144, 4, 588) if pixels else torch.empty(0, 144, 4, 588)
    )
    sequences = [_sequence(samples[s], s, row_of, rows, tokenizer) for s in range(len(samples))]
    length = -(-max(len(tokens) for tokens, *_ in sequences) // 32) * 32
    padding = (tokenizer.pad_token_id, -1, 0, -1, IGNORED)
    columns = [
        torch.tensor([seq[i] + [pad] * (length - len(seq[i])) for seq in sequences])
        for i, pad in enumerate(padding)
    ]
    labels = (
        torch.from_numpy(np.stack(each)) if pixels else torch.empty(0, 144, 1) for each in (glyphs, shapes)
    )
    return Batch(patches, *labels, *columns, long_rope=long_rope)


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


@lru_cache(maxsize=4096)
def _normalized(color: tuple[int, ...]) -> Tensor:
    """(3,): a colour as the tower sees it."""
    return overview(torch.tensor(color, dtype=torch.uint8).view(3, 1, 1).expand(3, CROP_PX, CROP_PX))[:, 0, 0]


def _shown(rng: Random, busy: np.ndarray, blanks: int) -> np.ndarray:
    """The busy cells and some blank ones, in order."""
    blank = np.flatnonzero(~busy).tolist()
    spare = rng.sample(blank, min(blanks, len(blank)))
    return np.sort(np.concatenate([np.flatnonzero(busy), np.array(spare, np.int64)]))


def _sequence(
    sample: Sample,
    index: int,
    row_of: dict[Place, int],
    rows: int,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """tokens, features, positions, branches and targets of one sample."""
    tokens: list[int] = []
    features: list[int] = []
    positions: list[int] = []
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
        for token_row in range(len(grid) * 12):
            for view in grid[token_row // 12]:
                for column in range(12):
                    put_feature(row_of.get((index, picture, view, token_row % 12 * 12 + column)))
            put_feature(rows)  # sub_GN

    count = len(sample.pictures)
    pieces = chat_ids(tokenizer, sample.system, count, sample.questions[0].text if sample.questions else "")
    for number, picture in enumerate(sample.pictures if sample.questions else []):
        put_ids(pieces[number])
        if picture.overview_only:
            at += canvas_tokens(picture.rows, picture.columns) - _OVERVIEW_TOKENS - 1
        else:
            first = 1 if len(picture.cells) > 1 else 0  # one crop looks like the global view, and is it
            crops = first + np.arange(picture.rows * picture.columns).reshape(picture.rows, -1)
            put_rows(number, crops.tolist())
        put_feature(rows + 1)  # glb_GN
        put_rows(number, [[0]])
    start = at
    branches = [0] * len(tokens)
    targets = [IGNORED] * len(tokens)
    for branch, question in enumerate(sample.questions, 1):
        at = start
        asked = chat_ids(tokenizer, sample.system, count, question.text)[-1]
        answer = answer_ids(tokenizer, question.answer)
        put_ids([*asked, *answer[:-1]])
        branches += [branch] * (len(tokens) - len(branches))
        targets += [IGNORED] * (len(asked) - 1) + answer
    return tokens, features, positions, branches, targets
