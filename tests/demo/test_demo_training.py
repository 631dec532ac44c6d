"""How the demo is made: what is drawn and said of it, and that training learns and resumes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from demo_training import (
    checkpoint_config,
    labels,
    pictures,
    questions,
    recipe,
    samples,
    train,
    views,
    vocabulary,
)
from demo_training.labels import GLYPH_SLOTS, IGNORED
from demo_training.tower import RADII, SIDE, Tower
from phi_vision.model.geometry import num_image_tokens
from torch.nn import functional as F


def test_glyph_labels_lie_on_ink() -> None:
    for seed in range(5):
        page = pictures.draw_text(Random(seed), em=pictures.PRINT_EM)
        seen = views.see(page, 1)
        labelled = (seen.glyphs[0, :, :-2] > 0).any(-1)
        assert labelled.any() and (seen.busy[0] | ~labelled).all()


def spelled(view: np.ndarray) -> str:
    """The characters of (144, GLYPH_SLOTS) labels in reading order."""
    return "".join(pictures.CHARACTERS[i - 1] for i in view[:, :-2].flatten() if i > 0)


def test_glyph_labels_spell_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "SHARED_PX", 0.0)
    page = pictures.draw_text(Random(3), em=(28, 32), lines=(2, 2))
    assert spelled(views.see(page, 1).glyphs[0]) == "".join(page.lines).replace(" ", "")


@pytest.mark.parametrize(("from_border", "columns"), [(-2.0, {3}), (-1.0, {3, 4}), (1.0, {3, 4}), (2.0, {4})])
def test_a_letter_on_the_border_of_two_cells_is_in_both(from_border: float, columns: set[int]) -> None:
    page = pictures.draw_text(Random(3), em=(28, 32), lines=(1, 1))
    assert page.print is not None
    scale = 30 / page.em_px
    at = 4 * labels.CELL_PX + from_border
    frame = labels.Frame(scale, scale, at - page.print.x[0] * scale, 40 - page.print.y[0] * scale)
    row = labels.glyph_labels(page, frame).reshape(labels.CELLS, labels.CELLS, GLYPH_SLOTS)[1]
    assert {c for c in range(labels.CELLS) if page.print.chars[0] == row[c, 0] and row[c, -2] == 0} == columns


def test_windows_of_a_page_spell_parts_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "SHARED_PX", 0.0)
    page = pictures.draw_page(Random(1), em=(28, 32), zoom=1.5, side=views.PAGE_SIDE, gaps=0.3)
    lines = "".join(page.lines).replace(" ", "")
    for view in views.windows(Random(0), page, 2, 3).glyphs:
        rows = view.reshape(12, 12, GLYPH_SLOTS)
        read = [spelled(row) for row in rows if spelled(row)]
        assert len(read) > 5 and all(row in lines for row in read)


def test_each_print_is_read_in_the_views_that_show_it_large_enough() -> None:
    page = pictures.draw_text(Random(3), em=pictures.SMALL_PRINT_EM, long_px=pictures.SMALL_PRINT_PX)
    small, large = views.see(page, 1), views.see(page, 16)
    small_print = labels.KINDS.index("small print")
    assert not (small.glyphs > 0).any() and (small.marks[0, :, 0] == small_print).any()
    assert not (large.glyphs[0] > 0).any() and (large.glyphs[1:] > 0).any()
    assert small.reading_view(page.em_px) == [] and 0 not in large.reading_view(page.em_px)

    page = pictures.draw_text(Random(3), em=pictures.PRINT_EM)
    large = views.see(page, 16)
    assert (large.glyphs[0] > 0).any() and not (large.glyphs[1:] > 0).any()


def test_mark_labels_name_what_is_there() -> None:
    scene = pictures.draw_shapes(Random(1))
    shown = views.see(scene, 1).marks[0]
    named = sorted((labels.KINDS[kind], int(color)) for kind, color in shown if kind > 0)
    assert named == sorted((s.kind, list(pictures.COLORS).index(s.color) + 1) for s in scene.shapes)


def test_sources_are_the_cells_that_show_what_is_said() -> None:
    tokenizer = vocabulary.build(questions.vocabulary())
    page = pictures.draw_text(Random(0), em=pictures.PRINT_EM, lines=(2, 3))
    seen = views.see(page, 1)
    question = questions.reads("ocr", "Read the text.", page)
    batch = samples.collate(Random(0), [samples.Sample([seen], [question])], tokenizer, blanks=4)
    said = batch.targets[0] != IGNORED
    for target, source in zip(batch.targets[0][said].tolist(), batch.sources[0][said].tolist(), strict=True):
        character = tokenizer.convert_ids_to_tokens(target)
        if character in pictures.GLYPHS:
            cell = int(batch.features[0, source])
            assert pictures.CHARACTERS.index(character) + 1 in seen.glyphs[0, cell, :-2]


def test_a_tower_layer_is_the_attention_that_it_is_published_as() -> None:
    torch.manual_seed(0)
    dim = checkpoint_config.VISION["hidden_size"]
    heads = checkpoint_config.VISION["num_attention_heads"]
    tower = Tower(dim, checkpoint_config.VISION["intermediate_size"])
    patches = torch.randn(1, SIDE, SIDE, 588)
    with torch.no_grad():
        own = tower(patches)
        weights = tower.published()
        x = F.linear(patches.flatten(1, 2), weights["embeddings.patch_embedding.weight"].flatten(1))
        x = torch.cat([weights["embeddings.class_embedding"].expand(1, 1, -1), x], dim=1)
        x = x + weights["embeddings.position_embedding.weight"]

        def norm(name: str, x: torch.Tensor) -> torch.Tensor:
            return F.layer_norm(x, (dim,), weights[f"{name}.weight"], weights[f"{name}.bias"])

        def linear(name: str, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

        x = norm("pre_layrnorm", x)
        for number in range(len(RADII)):
            layer = f"encoder.layers.{number}"
            seen = norm(f"{layer}.layer_norm1", x)
            q, k, v = (
                linear(f"{layer}.self_attn.{part}_proj", seen).unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in "qkv"
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + linear(f"{layer}.self_attn.out_proj", mixed)
            hidden = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
            x = x + linear(f"{layer}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    attended = x[:, 1:].view(1, SIDE, SIDE, dim) * tower.feature_scale(dim)
    torch.testing.assert_close(own, attended, atol=0.3, rtol=0)  # at the edge the nearest patch wins by less
    inner = slice(4, -4)  # from where no head looks over the edge
    torch.testing.assert_close(own[:, inner, inner], attended[:, inner, inner], atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", [1, 4, 16])
def test_a_sequence_has_the_places_of_the_served_prompt(number: int) -> None:
    tokenizer = vocabulary.build(questions.vocabulary())
    page = pictures.draw_text(Random(0), em=pictures.PRINT_EM)
    question = questions.Question("ocr", "Read the text.", "ABC")
    batch = samples.collate(
        Random(0), [samples.Sample([views.see(page, number)], [question])], tokenizer, blanks=144
    )
    shown = batch.features[0] >= 0
    width, height = page.image.size
    assert int(shown.sum()) == num_image_tokens(width, height, number)
    used = batch.branches[0] >= 0
    assert batch.positions[0][used].tolist() == list(range(int(used.sum())))


def test_leaving_blank_cells_out_moves_nothing_else() -> None:
    tokenizer = vocabulary.build(questions.vocabulary())
    scene = pictures.draw_shapes(Random(0))
    question = questions.Question("caption", "Describe the picture.", questions.caption(scene))
    whole, sparse = (
        samples.collate(Random(0), [samples.Sample([views.see(scene, 4)], [question])], tokenizer, blanks=b)
        for b in (144, 0)
    )
    assert sparse.tokens.shape[1] < whole.tokens.shape[1]
    for batch in (whole, sparse):
        asked = batch.branches[0] == 1
        assert batch.positions[0][asked][0] == whole.positions[0][whole.branches[0] == 1][0]


def test_a_batch_is_made_from_its_number_alone() -> None:
    batches = train.Batches(recipe.SMOKE[1], vocabulary.build(questions.vocabulary()))
    first, again, other = batches[3], batches[3], batches[4]
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.patches, again.patches)
    assert not torch.equal(first.patches[:1], other.patches[:1])


def test_held_out_words_are_held_out() -> None:
    trained = set(pictures.TRAINING_WORDS)
    assert not trained & set(pictures.HELD_OUT_WORDS)


@pytest.mark.full
def test_training_lowers_the_loss_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo_training.train", "--smoke", "--out", str(tmp_path)]
    root = Path(__file__).parents[2]
    env = {name: os.environ[name] for name in os.environ if not name.startswith("COV")}  # that is slow
    glyphs, answers = recipe.SMOKE

    def log(stage: recipe.Stage) -> list[dict[str, float]]:
        file = tmp_path / "log.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written
        return [row for row in rows if row["stage"] == stage.name]

    with subprocess.Popen(command, cwd=root, env=env) as first:
        while not log(answers):
            assert first.poll() is None
            time.sleep(0.2)
        first.kill()
    subprocess.run(command, cwd=root, env=env, check=True)

    assert [row["step"] for row in log(glyphs)] == [10, glyphs.steps]  # not trained again
    assert log(answers)[-1]["pictures"] == sum(stage.steps * stage.batch for stage in recipe.SMOKE)
    for stage in recipe.SMOKE:
        assert log(stage)[-1]["loss"] < 0.95 * log(stage)[0]["loss"], log(stage)
    assert (tmp_path / "checkpoint" / "model.safetensors").stat().st_size < 12_000_000
