"""The demo's answers through the whole stack: wrong crops, separators or placeholders read as nonsense."""

import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest
import torch
from demo_training import questions, samples, views
from demo_training.exam import small_print
from demo_training.network import DemoNetwork
from demo_training.pictures import GLYPHS, HELD_OUT_WORDS, PRINT_EM, Drawing, draw_shapes, draw_text
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.tasks.presets import PRESETS
from PIL import Image
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.support.pictures import image_part, user

ROOT = Path(__file__).parents[2]


def page(seed: int, **options: Any) -> Drawing:
    """A text of words that were not trained on."""
    drawn: dict[str, Any] = {"em": PRINT_EM, "lines": (1, 2), "max_chars": 10, "words": HELD_OUT_WORDS}
    return draw_text(Random(f"test-{seed}"), **drawn | options)


def scene(seed: int, most: int = 3) -> Drawing:
    return draw_shapes(Random(f"test-scene-{seed}"), most=most)


def ask(client: openai.OpenAI, task: str, *parts: Any, **fields: Any) -> str:
    answer = client.chat.completions.create(
        model=f"phi-3.5-vision:{task}", messages=[user(*parts)], **{"max_tokens": 100} | fields
    )
    return answer.choices[0].message.content or ""


def crops(number: int) -> dict[str, Any]:
    return {"extra_body": {"mm_processor_kwargs": {"num_crops": number}}}


# Shares of characters: the demo is no perfect reader (its card says how good), but crops or separators in the
# wrong place leave nothing of a text.
@pytest.mark.parametrize(("number", "errors"), [(1, 0.03), (4, 0.03), (16, 0.03)])
def test_it_reads_print_at_any_number_of_crops(client: openai.OpenAI, number: int, errors: float) -> None:
    pages = [page(i) for i in range(4)]
    said = [ask(client, "ocr", image_part(p.image), **crops(number)) for p in pages]
    true = ["\n".join(p.lines) for p in pages]
    edits = sum(map(Levenshtein.distance, said, true))
    assert edits <= errors * sum(map(len, true)), list(zip(true, said, strict=True))


def test_it_names_shapes_from_left_to_right(client: openai.OpenAI) -> None:
    scenes = [scene(i, most=2) for i in range(8)]
    said = [ask(client, "caption", image_part(s.image), **crops(4)) for s in scenes]
    true = [questions.caption(s) for s in scenes]
    assert sum(a == b for a, b in zip(said, true, strict=True)) >= 7, list(zip(true, said, strict=True))


def test_a_page_of_text_is_called_one(client: openai.OpenAI) -> None:
    assert ask(client, "caption", image_part(page(1).image)) == "A page with printed text."


def test_swapping_two_pictures_swaps_the_answer(client: openai.OpenAI) -> None:
    a, b = image_part(page(1, lines=(1, 1)).image), image_part(scene(1).image)
    question = "Which picture shows text?"
    assert ask(client, "vqa", a, b, question) == "The first"
    assert ask(client, "vqa", b, a, question) == "The second"


def test_each_of_two_texts_is_read_in_its_place(client: openai.OpenAI) -> None:
    first, second = page(3, lines=(1, 1)), page(4, lines=(1, 1))
    parts = [image_part(p.image) for p in (first, second)]
    for ordinal, own, other in (("first", first, second), ("second", second, first)):
        said = ask(client, "vqa", *parts, f"What does the {ordinal} picture say?")
        assert Levenshtein.distance(said, own.lines[0]) <= 2 < Levenshtein.distance(said, other.lines[0])


@pytest.mark.full
def test_low_detail_loses_what_high_detail_keeps(client: openai.OpenAI) -> None:
    pages = [small_print(f"test-small-{i}", lines=(1, 1)) for i in range(6)]
    true = [p.lines[0] for p in pages]
    low, high = (
        sum(
            Levenshtein.distance(ask(client, "ocr", image_part(p.image, detail)), t)
            for p, t in zip(pages, true, strict=True)
        )
        for detail in ("low", "high")
    )
    assert high < 0.5 * low, (high, low)
    assert low > 0.5 * sum(map(len, true))


def test_a_cached_answer_is_the_fresh_one(client: openai.OpenAI) -> None:
    picture = page(5)
    fresh = ask(client, "ocr", image_part(picture.image), extra_body={"cache_salt": "fresh"})
    again = ask(client, "ocr", image_part(picture.image), extra_body={"cache_salt": "fresh"})
    assert fresh == again
    assert Levenshtein.distance(fresh, "\n".join(picture.lines)) <= 1


def test_32_at_once_get_each_their_own(client: openai.OpenAI) -> None:
    pages: list[Drawing] = []
    seeds = itertools.count(100)
    while len(pages) < 32:  # texts so different that a letter misread makes none into another
        new = page(next(seeds), lines=(1, 1))
        if all(Levenshtein.distance(new.lines[0], p.lines[0]) > 6 for p in pages):
            pages.append(new)
    with ThreadPoolExecutor(32) as pool:
        said = list(pool.map(lambda p: ask(client, "ocr", image_part(p.image, "low")), pages))
    for i, answer in enumerate(said):
        nearest = min(range(32), key=lambda k: Levenshtein.distance(answer, pages[k].lines[0]))
        assert nearest == i, (answer, pages[i].lines[0])


def test_what_it_was_not_made_for_gets_a_short_answer(client: openai.OpenAI) -> None:
    assert len(ask(client, "vqa", image_part(scene(1).image), "What is the capital of France?")) < 40


@pytest.mark.full
def test_the_network_that_was_trained_is_the_one_that_is_served(client: openai.OpenAI) -> None:
    picture = page(6, lines=(1, 1))
    answer = client.chat.completions.create(
        model="phi-3.5-vision:ocr", messages=[user(image_part(picture.image))], logprobs=True, **crops(4)
    ).choices[0]
    assert answer.message.content and answer.logprobs and answer.logprobs.content
    served = torch.tensor([token.logprob for token in answer.logprobs.content])

    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    network = DemoNetwork(json.loads((DEMO_FOLDER / "config.json").read_text()))
    network.load_published(load_file(DEMO_FOLDER / "model.safetensors"))
    question = questions.Question("ocr", str(PRESETS["ocr"].prompt), answer.message.content)
    sample = samples.Sample([views.see(picture, 4)], [question])
    batch = samples.collate(Random(0), [sample], tokenizer, blanks=144).to(torch.device("cpu"))
    with torch.inference_mode():
        states, _ = network.hidden(batch, network.image_table(batch))
        said = batch.targets[0] >= 0
        logprobs = network.lm_head(states[0][said]).log_softmax(-1)
    own = logprobs.gather(1, batch.targets[0][said][:, None])[:, 0]
    assert len(own) == len(served)
    torch.testing.assert_close(served, own, atol=0.02, rtol=0)


def test_print_is_read_a_character_at_a_time() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    pieces = tokenizer.convert_ids_to_tokens(samples.answer_ids(tokenizer, GLYPHS))
    assert "".join(pieces[:-1]) == GLYPHS and len(pieces) == len(GLYPHS) + 1


def test_the_card_shows_answers_that_the_demo_gives(client: openai.OpenAI) -> None:
    card = (DEMO_FOLDER / "MODEL_CARD.md").read_text()
    rows = re.findall(r"^\| `(\w+\.png)` \| `(caption|ocr|vqa)` \| (.*?) \| `(.+)` \|$", card, flags=re.M)
    assert {task for _, task, *_ in rows} == set(PRESETS)
    for name, task, question, answer in rows:
        part = image_part(Image.open(ROOT / "tests" / "images" / name))
        parts = [part] if task != "vqa" else [part, question]
        assert ask(client, task, *parts).replace("\n", " ⏎ ") == answer
