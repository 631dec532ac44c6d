"""Records of a run as the queue gives them, made up but always the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from phi_vision.batch.work import Item, Record

WORDS = ["invoice", "total", "amount", "due", "net", "gross", "date", "number", "account", "street", "paid"]
WORDS += ["quantity", "unit", "price", "order", "reference", "delivery", "address", "the", "of", "to", "and"]


def done(number: int, key: str, text: str = "", **more: Any) -> Record:
    """An item that was answered; `request` and what else is given replaces fields of the result."""
    request = more.pop("request", {"source": key.partition("#")[0]})
    result = {
        "text": text,
        "status": "complete",
        "model": "phi-3.5-vision-ocr",
        "server": "http://127.0.0.1:8000/v1",
        "confidence": None,
        "words": None,
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        "seconds": 1.0,
        "rotation": None,
        "tiles": None,
        "attempts": None,
    }
    return Record(number, Item(key, request), "done", 1, {**result, **more})


def failed(
    number: int, key: str, cause: str, message: str, status: int | None = None, **request: Any
) -> Record:
    error = {"message": message, "cause": cause, "status": status}
    return Record(number, Item(key, request), "failed", 1, error=error)


def many(count: int, folder: Path) -> Iterator[Record]:
    """So many pages of letters in `folder`, each with some words on five lines, of all kinds of endings."""
    for number in range(count):
        pick = random.Random(number)
        key = f"letters/box {number // 500 + 1:02}/letter-{number:05}.png"
        request = {"source": str(folder / key)}
        if number % 97 == 13:
            cause, message, status = pick.choice(
                [
                    ("unreadable", f"{key} is not a picture that can be read: it is cut off", None),
                    ("refused", "the picture has 90 megapixels, at most 50 are taken", 400),
                    ("no answer", "the connection broke 5 times while the answer was awaited", None),
                ]
            )
            yield failed(number, key, cause, message, status, **request)
            continue
        if number % 61 == 7:
            yield done(number, key, status="blank", request=request, seconds=0.1, words=[], usage=None)
            continue
        words: list[list[Any]] = []
        lines = []
        place = 0
        sure = 0.8 if number % 29 == 5 else 0.985
        for line in range(5):
            chosen = [*pick.choices(WORDS, k=5), str(number * 10 + line)]
            lines.append(" ".join(chosen))
            for word in chosen:
                words.append([word, min(1.0, max(0.2, pick.gauss(sure, 0.04))), place])
                place += len(word) + 1
        yield done(
            number,
            key,
            "\n".join(lines),
            status="truncated" if number % 83 == 3 else "repetition" if number % 211 == 9 else "complete",
            request=request,
            confidence=fmean(word[1] for word in words),
            words=words,
            usage={"prompt_tokens": 757, "completion_tokens": 180 + number % 40},
            seconds=pick.lognormvariate(0.3, 0.5),
            tiles=1,
            rotation=0,
        )
