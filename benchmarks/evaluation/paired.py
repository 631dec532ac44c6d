"""Two servers' answers to the same questions: the difference, its interval, and a paired test.

The test draws the sign of each picture's difference anew (permutation test, two-sided). Where answers are
right or wrong, and each picture has one question, that is McNemar's exact test. Each p-value is of its own
row, without correction for the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.evaluation.metrics import METRICS
from benchmarks.evaluation.scores import RESAMPLES, SEED, Judged, by_picture, groups, interval


@dataclass(frozen=True)
class Comparison:
    """A row: how far the first server's score is from the other's.

    Args:
        metric: a name of `METRICS`.
        part: as in `Score`.
        questions: that both answered.
        pictures: that they are about.
        ours, other: the scores on these.
        difference: ours less the other's.
        low, high: its interval; None where the answers do not tell.
        p_value: how likely so large a difference is where the two are equally good.
        better, worse: questions of which ours has the better answer, and the worse one.
    """

    metric: str
    part: str
    questions: int
    pictures: int
    ours: float | None
    other: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float
    better: int
    worse: int


def compare(ours: Sequence[Judged], other: Sequence[Judged]) -> list[Comparison]:
    """The rows of `scores`, for questions that both answered."""
    others = {each.question.key: each for each in other}
    both = [each for each in ours if each.question.key in others]
    return [
        _compared(metric, part, group, [others[each.question.key] for each in group])
        for metric, part, group in groups(both)
    ]


def _compared(metric: str, part: str, ours: Sequence[Judged], other: Sequence[Judged]) -> Comparison:
    pairs = [
        (one.question, one.points[metric], two.points[metric]) for one, two in zip(ours, other, strict=True)
    ]
    first = by_picture((question, points) for question, points, _ in pairs)
    second = by_picture((question, points) for question, _, points in pairs)
    of = float(first[:, 1].sum())
    gains = [one[0] - two[0] for _, one, two in pairs]
    if METRICS[metric].is_error:
        gains = [-gain for gain in gains]
    differences = first[:, 0] - second[:, 0]
    low, high = interval(np.column_stack([differences, first[:, 1]]))
    return Comparison(
        metric,
        part,
        questions=len(pairs),
        pictures=len(first),
        ours=float(first[:, 0].sum()) / of if of else None,
        other=float(second[:, 0].sum()) / of if of else None,
        difference=float(differences.sum()) / of if of else None,
        low=low,
        high=high,
        p_value=_p_value(differences),
        better=sum(gain > 0 for gain in gains),
        worse=sum(gain < 0 for gain in gains),
    )


def _p_value(differences: np.ndarray[Any, Any]) -> float:
    """That the signs of the differences are chance. Pictures without a difference say nothing."""
    moved = differences[np.abs(differences) > 1e-12]
    if len(moved) < 2:  # of one, either sign is as large
        return 1.0
    found = stats.permutation_test(
        (moved,),
        lambda values, axis=-1: values.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)
