"""How the demo is made: what is drawn and said of it."""

from random import Random

import pytest
import torch
from phi_vision.model.geometry import num_image_tokens

from demo_model import labels, pictures, questions, recipe, samples, train, vocabulary
from demo_model.labels import GLYPH_SLOTS, IGNORED


def test_glyph_labels_lie_on_ink() -> None:
    for seed in range(5):
        page = pictures.draw_text(Random(seed), em=(20, 40))
        seen = samples.see(page, 1)
        labelled = (seen.glyphs[0, :, :-2] > 0).any(-1)
        assert labelled.any() and (seen.busy[0] | ~labelled).all()


def test_glyph_labels_spell_the_lines() -> None:
    page = pictures.draw_text(Random(3), em=(24, 28), lines=(2, 2))
    flat = samples.see(page, 1).glyphs[0, :, :-2].flatten()
    spelled = "".join(pictures.GLYPHS[i - 1] for i in flat if i > 0)
    assert spelled == "".join(page.lines).replace(" ", "")


def test_crops_are_labelled_where_their_text_is_legible() -> None:
    page = pictures.draw_text(Random(3), em=(7, 8))
    seen = samples.see(page, 16)
    assert (seen.glyphs[0] == IGNORED).all()
    assert (seen.glyphs[1:] > 0).any()
    assert seen.glyphs.shape[1:] == (144, GLYPH_SLOTS)


def test_shape_labels_name_what_is_there() -> None:
    scene = pictures.draw_shapes(Random(1))
    shown = samples.see(scene, 1).shapes[0]
    named = {(int(kind), int(color)) for kind, color in shown if kind > 0}
    true = {
        (pictures.SHAPES.index(s.kind) + 1, list(pictures.COLORS).index(s.color) + 1) for s in scene.shapes
    }
    assert named == true
    assert 1 + len(pictures.SHAPES) == labels.SHAPE_CLASSES


@pytest.mark.parametrize("number", [1, 4, 16])
def test_a_sequence_has_the_places_of_the_served_prompt(number: int) -> None:
    tokenizer = vocabulary.build(questions.vocabulary())
    page = pictures.draw_text(Random(0), em=(20, 40))
    question = questions.Question("ocr", "Read the text.", "ABC")
    batch = samples.collate(
        Random(0), [samples.Sample([samples.see(page, number)], [question])], tokenizer, blanks=144
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
        samples.collate(Random(0), [samples.Sample([samples.see(scene, 4)], [question])], tokenizer, blanks=b)
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
