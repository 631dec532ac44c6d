"""Answers -> scores with intervals.

Questions about one picture share its difficulty, so pictures are drawn anew, not questions: a score is the
sum of the points over the sum of what they are of, and its interval is the middle 95 % of the same over
pictures drawn with replacement (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.evaluation.metrics import METRICS, Points
from benchmarks.evaluation.questions import ALL, Question

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0  # of the draws: the same answers give the same intervals
_RESAMPLES_AT_ONCE = 500  # bounds the memory


@dataclass(frozen=True)
class Judged:
    """What an answer is worth by each of its question's metrics."""

    question: Question
    answer: str
    points: Mapping[str, Points]

    @property
    def badness(self) -> float:
        """By the first metric; 0 is right."""
        name = self.question.metrics[0]
        return METRICS[name].badness(self.points[name])


@dataclass(frozen=True)
class Score:
    """A row of the result.

    Args:
        metric: a name of `METRICS`.
        part: of the data set, or `ALL`.
        questions: that were answered.
        pictures: that they are about.
        value: None where there is nothing to count, such as characters of blank pages.
        low, high: the interval; None where the answers do not tell, as with one picture or with no error.
    """

    metric: str
    part: str
    questions: int
    pictures: int
    value: float | None
    low: float | None
    high: float | None


def judge(question: Question, answer: str) -> Judged:
    """By all metrics of the question."""
    return Judged(
        question, answer, {name: METRICS[name].points(answer, question) for name in question.metrics}
    )


def scores(judged: Sequence[Judged]) -> list[Score]:
    """A score for each metric of each part, and of all parts together where there are several."""
    return [_score(metric, part, group) for metric, part, group in groups(judged)]


def groups(judged: Sequence[Judged]) -> Iterator[tuple[str, str, list[Judged]]]:
    """Metric, part, and the answers that it has: the parts in their order, then the whole."""
    parts = list(dict.fromkeys(each.question.part for each in judged))
    for part in parts:
        for metric in METRICS:
            if group := [each for each in judged if each.question.part == part and metric in each.points]:
                yield metric, part, group
    for metric in METRICS:
        group = [each for each in judged if metric in each.points]
        if len({each.question.part for each in group}) > 1:
            yield metric, ALL, group


def by_picture(pairs: Iterable[tuple[Question, Points]]) -> np.ndarray[Any, Any]:
    """float64, (pictures, 2): points, and what they are of, summed over the questions about each."""
    sums: dict[tuple[str, ...], np.ndarray[Any, Any]] = {}
    for question, points in pairs:
        sums[question.images] = sums.get(question.images, np.zeros(2)) + points
    return np.array(list(sums.values()))


def interval(sums: np.ndarray[Any, Any]) -> tuple[float, float] | tuple[None, None]:
    """Of the ratio of the sums over the first axis.

    Args:
        sums: float64, (pictures, 2).
    """
    if len(sums) < 2 or not sums[:, 1].any():
        return None, None
    with np.errstate(invalid="ignore", divide="ignore"):
        found = stats.bootstrap(
            (sums[:, 0], sums[:, 1]),
            lambda points, of, axis=-1: points.sum(axis) / of.sum(axis),
            n_resamples=RESAMPLES,
            batch=_RESAMPLES_AT_ONCE,
            paired=True,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if np.isfinite([low, high]).all() and low < high else (None, None)


def _score(metric: str, part: str, group: Sequence[Judged]) -> Score:
    sums = by_picture((each.question, each.points[metric]) for each in group)
    points, of = sums.sum(axis=0)
    value = float(points / of) if of else None
    low, high = interval(sums)
    if low is None and value in (0.0, 1.0) and not METRICS[metric].is_error:
        low, high = _all_alike(value, len(sums))
    return Score(metric, part, len(group), len(sums), value, low, high)


def _all_alike(value: float, pictures: int) -> tuple[float, float]:
    """Of a share where every answer is right, or every one wrong: drawn anew they are the same again.

    The exact (Clopper-Pearson) interval of so many pictures.
    """
    found = stats.binomtest(round(value * pictures), pictures).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)
