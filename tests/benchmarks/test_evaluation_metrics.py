"""Metrics against values computed by hand; intervals and tests against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.evaluation import metrics, vqa_accuracy
from benchmarks.evaluation.paired import compare
from benchmarks.evaluation.questions import ALL, Question
from benchmarks.evaluation.scores import Judged, Score, interval, judge, scores


def near(value: float, rel: float | None = None, abs: float | None = None) -> Any:
    return pytest.approx(value, rel, abs)


def question(*answers: str, key: str = "1", metric: str = "exact", **more: Any) -> Question:
    made = {"images": (f"{key}.png",), "task": "vqa", "text": "What?", "metrics": (metric,)}
    return Question(key=key, answers=answers, **made | more)


def points(metric: str, answer: str, *right: str, **more: Any) -> metrics.Points:
    return metrics.METRICS[metric].points(answer, question(*right, **more))


@pytest.mark.parametrize(
    ("answer", "right", "edits"),
    [
        ("HELLO", "HELLO", (0, 5)),
        ("HELO W0RLD", "HELLO WORLD", (2, 11)),  # one left out, one wrong
        ("", "HELLO", (5, 5)),
        ("AAAAAAAAAA", "A", (9, 1)),  # more than all
        ("print", "", (5, 0)),  # of a blank page
        ("two\nlines", "two lines", (1, 9)),
        (" HELLO\n", "HELLO", (0, 5)),
    ],
)
def test_character_errors(answer: str, right: str, edits: metrics.Points) -> None:
    assert points("cer", answer, right) == edits


@pytest.mark.parametrize(
    ("answer", "right", "edits"),
    [("the cat  sat", "the\ncat sat", (0, 3)), ("the hat sat down", "the cat sat", (2, 3)), ("", "", (0, 0))],
)
def test_word_errors(answer: str, right: str, edits: metrics.Points) -> None:
    assert points("wer", answer, right) == edits


@pytest.mark.parametrize(
    ("answer", "right", "similarity"),
    [
        ("Denver Broncos", ["denver  broncos"], 1.0),
        ("Denver R. Broncos", ["Denver Broncos"], 1 - 3 / 17),
        ("abcd", ["abxy"], 0.5),  # exactly the threshold
        ("abcd", ["axyz"], 0.0),  # a quarter is nothing
        ("Shannon", ["Edward R. Shannon", "E. Shannon"], 0.7),  # the nearest counts
        ("", ["x"], 0.0),
    ],
)
def test_anls(answer: str, right: Sequence[str], similarity: float) -> None:
    assert points("anls", answer, *right) == (near(similarity), 1)


@pytest.mark.parametrize(("agree", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_leaves_each_of_ten_people_out(agree: int, accuracy: float) -> None:
    people = ["Two dogs"] * agree + [f"answer {chr(97 + i)}" for i in range(10 - agree)]
    assert points("vqa_accuracy", "the 2 dogs.", *people) == (near(accuracy), 1)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The dog's isnt, couldnt've a U.S. 3.5", "dog 's isn't couldn't've us 3.5"),
        ("None of the ten", "0 of 10"),
        ("coca-cola", "coca cola"),
        ("coca -cola", "coca cola"),
        ("youre who'dve y'allll", "you're who'd've y'all'll"),
        ("1,000\n\tlines", "1000 lines"),
        ("one/two", "1 2"),
    ],
)
def test_answers_are_normalised_as_the_challenge_does(text: str, normalised: str) -> None:
    assert vqa_accuracy.normalised(text) == normalised


@pytest.mark.parametrize(
    ("answer", "right", "is_right"),
    [
        ("105", "100", True),
        ("94.9", "100", False),
        ("-95", "-100", True),
        ("52%", "0.5", True),  # a share
        ("52%", "50%", True),
        ("50", "50%", False),
        ("0.01", "0", False),  # of nothing, five per cent are nothing
        ("0", "0", True),
        ("Yes", "yes", True),
        ("Yes.", "yes", False),
        ("nan", "1", False),
        ("1,234", "1234", False),  # as the published code has it
    ],
)
def test_relaxed_accuracy(answer: str, right: str, is_right: bool) -> None:
    assert points("relaxed", answer, right) == (is_right, 1)


def test_ocrbench_looks_for_the_answer_in_what_was_said() -> None:
    assert points("ocrbench", "It says:\nCenTRE.", "CENTRE") == (1, 1)
    assert points("ocrbench", "two\nlines", "Two lines", "other") == (1, 1)
    assert points("ocrbench", "CENTER", "CENTRE") == (0, 1)
    formula = {"part": metrics.FORMULAS}
    assert points("ocrbench", "the formula is X ^ 2 + y", "X^2 +y", **formula) == (1, 1)
    assert points("ocrbench", "x ^ 2 + y", "X^2 +y", **formula) == (0, 1)  # there case matters
    assert points("contains", "x ^ 2 + y", "X^2 +y") == (0, 1)


def test_exact_is_to_the_letter() -> None:
    assert [points("exact", said, "Red", "Blue")[0] for said in ("Red\n", "Blue", "red")] == [1, 1, 0]


def test_an_answer_that_cannot_be_judged_is_refused() -> None:
    assert "exactly 10" in str(metrics.METRICS["vqa_accuracy"].fault(["one"]))
    assert "exactly 1 " in str(metrics.METRICS["cer"].fault(["one", "two"]))
    assert "empty" in str(metrics.METRICS["contains"].fault([" "]))
    assert metrics.METRICS["cer"].fault([""]) is None and metrics.METRICS["anls"].fault(["a", "b"]) is None


def answered(rights: Sequence[bool], *, per_picture: int = 1, part: str = "") -> list[Judged]:
    """Right and wrong answers; each picture has so many questions in a row."""
    return [
        judge(question("yes", key=f"{part}{n}", images=(f"{part}{n // per_picture}",), part=part), word)
        for n, word in enumerate("yes" if right else "no" for right in rights)
    ]


def only(found: list[Score]) -> Score:
    (score,) = found
    return score


def test_the_interval_of_a_share_is_near_its_closed_form() -> None:
    score = only(scores(answered([True] * 70 + [False] * 30)))
    assert (score.value, score.questions, score.pictures) == (0.7, 100, 100)
    assert score.low is not None and score.high is not None
    half = 1.96 * math.sqrt(0.7 * 0.3 / 100)
    assert score.low == near(0.7 - half, abs=0.015) and score.high == near(0.7 + half, abs=0.015)


def test_questions_about_one_picture_do_not_count_as_many() -> None:
    """Five questions a picture, all alike: as wide as 20 answers, not as 100."""
    rights = [n // 5 % 10 < 7 for n in range(100)]
    alone, together = (only(scores(answered(rights, per_picture=per))) for per in (1, 5))
    assert alone.value == together.value == 0.7 and together.pictures == 20
    assert alone.low and alone.high and together.low and together.high
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == near(math.sqrt(5), rel=0.15)


def test_where_all_are_right_the_interval_is_the_exact_one() -> None:
    score = only(scores(answered([True] * 60)))
    assert (score.low, score.high) == (near(0.025 ** (1 / 60)), 1.0)
    score = only(scores(answered([False] * 60)))
    assert (score.low, score.high) == (0.0, near(1 - 0.025 ** (1 / 60)))


def test_error_rates_pool_what_they_are_of() -> None:
    """One error of ten characters and none of ninety are one in a hundred, not one in twenty."""
    short = judge(question("A" * 10, key="1", metric="cer"), "A" * 9)
    long = judge(question("A" * 90, key="2", metric="cer"), "A" * 90)
    score = only(scores([short, long]))
    assert score.value == 0.01 and (score.low, score.high) == (0.0, 0.1)
    assert (short.badness, long.badness) == (0.1, 0.0)


def test_without_anything_to_count_there_is_no_score() -> None:
    score = only(scores([judge(question("", key=key, metric="cer"), "") for key in "12"]))
    assert (score.value, score.low, score.high) == (None, None, None)
    assert interval(np.array([[1.0, 1.0]])) == (None, None)  # of one picture


def test_parts_have_scores_of_their_own_and_one_together() -> None:
    found = scores(answered([True, False], part="a") + answered([True, True], part="b"))
    assert [(score.part, score.value) for score in found] == [("a", 0.5), ("b", 1.0), (ALL, 0.75)]


@pytest.mark.parametrize(("better", "worse"), [(5, 1), (9, 3), (4, 4), (13, 0)])
def test_the_paired_test_is_mcnemars_where_answers_are_right_or_wrong(better: int, worse: int) -> None:
    ours = [True] * better + [False] * worse + [True] * 50
    other = [False] * better + [True] * worse + [True] * 50
    (row,) = compare(answered(ours), answered(other))
    moved = better + worse
    tail = sum(math.comb(moved, k) for k in range(min(better, worse) + 1)) / 2**moved
    assert row.p_value == near(min(1.0, 2 * tail))
    assert (row.better, row.worse, row.questions) == (better, worse, moved + 50)
    assert row.difference == near((better - worse) / (moved + 50))
    assert row.low is not None and row.high is not None and row.difference is not None
    assert row.low < row.difference < row.high


def test_a_difference_of_errors_says_who_is_better() -> None:
    right = [question("ABCDE", key=str(n), metric="cer") for n in range(12)]
    ours, other = ([judge(each, said) for each in right] for said in ("ABCD", "AB"))
    (row,) = compare(ours, other)
    assert (row.ours, row.other, row.difference) == (
        near(0.2),
        near(0.6),
        near(-0.4),
    )
    assert (row.better, row.worse) == (12, 0) and row.p_value == near(2 / 2**12)


def test_equal_answers_have_no_difference_and_only_common_questions_count() -> None:
    (row,) = compare(answered([True, False, True]), answered([True, False]))
    assert (row.questions, row.difference, row.p_value, row.low) == (2, 0.0, 1.0, None)
    assert compare(answered([True]), []) == []


def test_one_difference_tells_nothing() -> None:
    (row,) = compare(answered([True, True]), answered([True, False]))
    assert (row.p_value, row.difference, row.better) == (1.0, 0.5, 1)


def test_many_pictures_have_a_p_value_drawn_at_random() -> None:
    (row,) = compare(answered([True] * 60 + [False] * 20), answered([False] * 60 + [True] * 20))
    assert row.p_value <= 0.001
    (row,) = compare(answered([True, False] * 40), answered([False, True] * 40))
    assert row.p_value > 0.9
