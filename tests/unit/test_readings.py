from __future__ import annotations

import math

import pytest
from phi_vision.documents.answers import Answer, Status
from phi_vision.documents.orientation import ROTATIONS, upright
from phi_vision.documents.readings import (
    LOW_CONFIDENCE,
    LOW_CONFIDENCE_SHORT,
    MISSING,
    Reading,
    is_refusal,
    joined,
    reading_of,
)
from phi_vision.media.view import Rotation


def answered(text: str, probability: float = 0.99, finish_reason: str = "stop") -> Answer:
    pieces = [(char, math.log(probability)) for char in text]
    return Answer.from_logprobs(
        text, pieces, finish_reason=finish_reason, prompt_tokens=5, completion_tokens=len(text)
    )


def read(text: str, probability: float = 0.99, finish_reason: str = "stop") -> Reading:
    return reading_of(answered(text, probability, finish_reason))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I do not know.", True),
        ("Too small to read.", True),
        ("The text is too small to read", True),
        ("I don\u2019t know", True),
        ("Too small to read. SALE", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_only_a_whole_sentence_is_a_refusal(text: str, refused: bool) -> None:
    assert is_refusal(text) == refused


def test_a_refusal_is_a_failure_without_text_or_confidence() -> None:
    reading = read("Too small to read.", 0.999)
    assert (reading.status, reading.text, reading.confidence) == ("failed", "", None)
    assert reading.raw_text == "Too small to read."
    assert reading.is_unsure


def test_a_loop_is_kept_once_however_the_answer_ended() -> None:
    text = "MENU\n" + "TEA AND BREAD AND BUTTER FOR TWO\n" * 30
    for finish_reason in ("repetition", "length"):
        reading = read(text, finish_reason=finish_reason)
        assert reading.status == "repetition"
        assert reading.text.count("TEA AND BREAD") in (1, 2)
        assert reading.tokens[-1].start == len(reading.text) - 1
    assert read(text).status == "complete"  # the model ended it itself


def test_a_long_answer_without_a_loop_is_truncated() -> None:
    assert read("MENU\nTEA", finish_reason="length").status == "truncated"


def test_unsure_below_the_bound() -> None:
    assert not read("MENU OF THE DAY", LOW_CONFIDENCE + 0.001).is_unsure
    assert read("MENU OF THE DAY", LOW_CONFIDENCE - 0.001).is_unsure


def test_a_few_letters_must_be_surer() -> None:
    assert read("HOHO", LOW_CONFIDENCE + 0.001).is_unsure
    assert not read("HOHO", LOW_CONFIDENCE_SHORT + 0.001).is_unsure


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (read("A", 0.6), read("A", 0.99, "length")),
        (read("A", 0.6, "length"), read("A\n" * 400, 0.99, "repetition")),
        (read("A", 0.1, "length"), read("I do not know.")),
        (read("A", 0.9), read("A", 0.8)),
    ],
)
def test_the_status_counts_before_the_confidence(better: Reading, worse: Reading) -> None:
    assert better.rank > worse.rank


def test_parts_are_joined_with_their_tokens_in_place() -> None:
    whole = joined([read("AB"), read(""), read("C", 0.5)])
    assert whole.text == "AB\nC"
    assert [whole.text[token.start] for token in whole.tokens] == ["A", "B", "C"]
    assert (whole.prompt_tokens, whole.completion_tokens) == (15, 3)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([read("A"), read("B")], "complete"),
        ([read("A"), read("B", finish_reason="length")], "truncated"),
        ([read("A"), read("I do not know.")], "truncated"),
        ([read("A"), MISSING], "truncated"),
        ([MISSING, read("I do not know.")], "failed"),
    ],
)
def test_the_whole_is_as_good_as_its_worst_part(parts: list[Reading], status: Status) -> None:
    assert joined(parts).status == status


def test_upright_is_what_is_read_with_most_confidence() -> None:
    looks: dict[Rotation, Reading] = {
        0: read("A", 0.8),
        90: MISSING,
        180: read("A", 0.95),
        270: read("A", 0.7),
    }
    assert upright([looks]) == 180
    assert upright([dict.fromkeys(looks, read("A", 0.8))]) == 0  # alike each way: as it lies
    assert upright([dict.fromkeys(looks, MISSING)]) is None


def test_a_second_look_does_not_replace_the_first() -> None:
    first = dict(
        zip(ROTATIONS, (read("A", 0.83), read("B", 0.82), read("C", 0.8), read("D", 0.94)), strict=True)
    )
    second = dict(zip(ROTATIONS, (read("A", 0.9), MISSING, read("C", 0.7), read("D", 0.88)), strict=True))
    assert upright([first, second]) == 270
