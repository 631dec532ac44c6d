"""Metrics: what an answer is worth. Each gives points and of how many, so that they add up over questions.

Those of public data sets follow the code that publishes their figures, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jiwer
from rapidfuzz.distance import Levenshtein

from benchmarks.evaluation import vqa_accuracy
from benchmarks.evaluation.questions import Question

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05
FORMULAS = "Handwritten Mathematical Expression Recognition"  # the part of OCRBench

Points = tuple[float, float]  # of how many


@dataclass(frozen=True)
class Metric:
    """A way to judge answers.

    Args:
        name: for people.
        points: of an answer to a question. Their sum over the sum of what they are of is the score.
        is_error: a rate of errors, which may exceed 1: less is better. Else a share, from 0 to 1.
        num_answers: right answers that it needs; None: any number.
        takes_blank: whether a right answer may be empty.
    """

    name: str
    points: Callable[[str, Question], Points]
    is_error: bool = False
    num_answers: int | None = None
    takes_blank: bool = True

    def fault(self, answers: Sequence[str]) -> str | None:
        """Why it cannot judge with these right answers; None where it can."""
        if self.num_answers not in (None, len(answers)):
            return f"needs exactly {self.num_answers} right answers, here are {len(answers)}"
        if not self.takes_blank and not all(answer.strip() for answer in answers):
            return "cannot judge with a right answer that is empty"
        return None

    def badness(self, points: Points) -> float:
        """How bad an answer is: 0 is right."""
        share = points[0] / points[1] if points[1] else float(points[0] > 0)
        return share if self.is_error else 1 - share


def _best(judge: Callable[[str, str], float]) -> Callable[[str, Question], Points]:
    """A share from 0 to 1, of the right answer that is nearest."""
    return lambda answer, question: (max(float(judge(answer, right)) for right in question.answers), 1.0)


def exact(answer: str, right: str) -> bool:
    """Equal to the letter, but for white space around it."""
    return answer.strip() == right.strip()


def contains(answer: str, right: str) -> bool:
    """Somewhere in the answer, whatever the case."""
    return _on_a_line(right.lower()) in _on_a_line(answer.lower())


def ocrbench(answer: str, question: Question) -> Points:
    """OCRBench's rule: contained; in its formulas, where case matters, without any space.

    Source: `OCRBench/example.py` of Yuliang-Liu/MultimodalOCR (Liu et al. 2024, arXiv 2305.07895).
    """
    if question.part != FORMULAS:
        return _best(contains)(answer, question)
    given = _on_a_line(answer).replace(" ", "")
    return float(any(_on_a_line(right).replace(" ", "") in given for right in question.answers)), 1.0


def anls(answer: str, right: str) -> float:
    """Average normalized Levenshtein similarity: 1 less edits over the longer text's length, from a half on.

    Source: Biten et al. 2019 (arXiv 1907.00490), equation 1; like DocVQA's evaluation it ignores case and
    runs of white space, and exactly a half counts.
    """
    given, wanted = (" ".join(text.lower().split()) for text in (answer, right))
    return float(Levenshtein.normalized_similarity(given, wanted, score_cutoff=ANLS_THRESHOLD))


def relaxed(answer: str, right: str) -> bool:
    """ChartQA's relaxed accuracy: numbers within five per cent; other answers equal, whatever the case.

    Source: Masry et al. 2022 (arXiv 2203.10244), section 5.1; percent signs and zero as `metrics.py` of
    google-research/pix2struct has them.
    """
    given, wanted = _number(answer.strip()), _number(right.strip())
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= RELAXED_TOLERANCE
    return answer.strip().lower() == right.strip().lower()


def character_errors(answer: str, question: Question) -> Points:
    """Edits, and the characters of what is right."""
    found = jiwer.process_characters(question.answers[0], answer)
    return _edits(found), found.hits + found.substitutions + found.deletions


def word_errors(answer: str, question: Question) -> Points:
    """The same in words, which white space parts."""
    found = jiwer.process_words(" ".join(question.answers[0].split()), " ".join(answer.split()))
    return _edits(found), found.hits + found.substitutions + found.deletions


def _edits(found: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    return found.substitutions + found.deletions + found.insertions


def _on_a_line(text: str) -> str:
    return text.strip().replace("\n", " ")


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


METRICS: Mapping[str, Metric] = {
    "exact": Metric("exact match", _best(exact)),
    "contains": Metric("contains the answer", _best(contains), takes_blank=False),
    "ocrbench": Metric("OCRBench", ocrbench, takes_blank=False),
    "anls": Metric("ANLS", _best(anls), takes_blank=False),
    "vqa_accuracy": Metric(
        "VQA accuracy",
        lambda answer, question: (vqa_accuracy.accuracy(answer, question.answers), 1.0),
        num_answers=vqa_accuracy.NUM_ANSWERS,
    ),
    "relaxed": Metric("relaxed accuracy", _best(relaxed), takes_blank=False),
    "cer": Metric("character errors", character_errors, is_error=True, num_answers=1),
    "wer": Metric("word errors", word_errors, is_error=True, num_answers=1),
}
