from __future__ import annotations

import math

import pytest
from phi_vision.documents.answers import Answer, Status, Token, cut, status_of
from phi_vision.documents.confidence import of_tokens, of_words, words


def answered(text: str, *pieces: str, finish_reason: str | None = "stop") -> Answer:
    logprobs = [(piece, -0.1 * index) for index, piece in enumerate(pieces)]
    return Answer.from_logprobs(
        text, logprobs, finish_reason=finish_reason, prompt_tokens=1, completion_tokens=len(pieces)
    )


@pytest.mark.parametrize(
    ("finish_reason", "status"),
    [
        ("stop", "complete"),
        (None, "complete"),
        ("length", "truncated"),
        ("repetition", "repetition"),
        ("abort", "failed"),
        ("error", "failed"),
    ],
)
def test_status_says_how_the_answer_ended(finish_reason: str | None, status: Status) -> None:
    assert status_of(answered("A", "A", finish_reason=finish_reason)) == status


@pytest.mark.parametrize(
    ("text", "pieces", "starts"),
    [
        ("AB CD", ("AB", " CD"), [0, 2]),
        ("AB CD\nE", ("AB", "CD", "\n", "E"), [0, 3, 5, 6]),  # decoded one by one: no space in front
        ("AB", ("AB", "<|end|>"), [0]),  # the token that ends the answer is not in the text
        (" é!", (" ", "", "é", "!"), [0, 1, 1, 2]),  # a character of two tokens
        ("AB", ("<|user|>", "A", "B"), [0, 1]),
        ("a b a b", ("a", "b", "a", "b"), [0, 2, 4, 6]),
        ("", ("<|end|>",), []),
    ],
)
def test_tokens_are_placed_in_the_text(text: str, pieces: tuple[str, ...], starts: list[int]) -> None:
    assert [token.start for token in answered(text, *pieces).tokens] == starts


def test_cut_moves_tokens_and_splits_those_across_an_end() -> None:
    tokens = answered("ABC DEF GHI", "ABC", " DEF", " GHI").tokens
    found = cut(tokens, 4, 9)
    assert [(token.text, token.start) for token in found] == [("DEF", 0), (" G", 3)]


def test_page_confidence_is_average_and_minimum_of_probabilities() -> None:
    tokens = [Token("A", math.log(0.5), 0), Token("B", math.log(0.9), 1)]
    found = of_tokens(tokens)
    assert found is not None
    assert found.average == pytest.approx(0.7)
    assert found.minimum == pytest.approx(0.5)
    assert of_tokens([]) is None


def test_word_confidence_is_the_geometric_mean_of_its_tokens() -> None:
    text = "TOTAL $5"
    tokens = [Token("TO", math.log(0.9), 0), Token("TAL", math.log(0.4), 2), Token(" $5", math.log(0.8), 5)]
    total, price = words(text, tokens)
    assert (total.text, total.start_index) == ("TOTAL", 0)
    assert total.confidence == pytest.approx(0.6)
    assert (price.text, price.start_index) == ("$5", 6)
    assert price.confidence == pytest.approx(0.8)
    page = of_words([total, price])
    assert page is not None
    assert (page.average, page.minimum) == pytest.approx((0.7, 0.6))


def test_words_without_tokens_are_left_out() -> None:
    assert words("A B", []) == []
    assert [word.text for word in words("A B", [Token("B", 0.0, 2)])] == ["B"]
