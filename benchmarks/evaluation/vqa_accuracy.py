"""VQA accuracy as the challenges of VQA and TextVQA compute it.

Source: the evaluation of the VQA challenge (https://visualqa.org/evaluation.html) in the form that TextVQA's
has (`m4c_evaluators.py` of facebookresearch/mmf), its oddities included: figures are to be comparable with
those that are published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

NUM_ANSWERS = 10  # people were asked
_FULL_MARKS = 3  # people who say the same

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = {"a", "an", "the"}

# Words by what is left out at their end.
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
}
_DOUBLE_ENDINGS = {
    ("n't", "'ve"): "could had might should would",
    ("'d", "'ve"): "he it she somebody someone something there they we who you",
}
_OTHERS = {
    "maam": "ma'am",
    "oclock": "o'clock",
    "twas": "'twas",
    "yall": "y'all",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "ow's'at": "'ow's'at",
    "somebody'd": "somebodyd",  # the wrong way round, there too
}


def accuracy(answer: str, people: Sequence[str]) -> float:
    """How far an answer agrees with those of ten people, from 0 to 1.

    Each person is left out in turn; three of the other nine who say the same make full marks. Their mean.
    """
    said = normalised(answer)
    same = [normalised(person) == said for person in people]
    return sum(min(1.0, (sum(same) - left_out) / _FULL_MARKS) for left_out in same) / len(same)


def normalised(answer: str) -> str:
    """In lower case, with numbers as digits, without articles and most punctuation."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = [_NUMBERS.get(word, word) for word in _without_punctuation(text).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, one between letters becomes a space; a full stop goes but for a digit's."""
    found = text
    for mark in _PUNCTUATION:
        found = found.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", found)


def _contractions() -> Iterator[tuple[str, str]]:
    for ending, stems in _ENDINGS.items():
        for stem in stems.split():
            yield stem + ending.replace("'", ""), stem + ending
    for (first, second), stems in _DOUBLE_ENDINGS.items():
        for stem in stems.split():
            whole = stem + first + second
            yield stem + first.replace("'", "") + second, whole
            yield stem + first + second.replace("'", ""), whole


_CONTRACTIONS = {**dict(_contractions()), **_OTHERS}
