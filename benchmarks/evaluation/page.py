"""The page of an evaluation: scores with their intervals, and the worst answers beside their pictures.

One self-contained HTML file. What a model or a data set says is text in it, never markup.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image, ImageOps
from rapidfuzz.distance import Levenshtein

from benchmarks.evaluation import tables
from benchmarks.evaluation.metrics import METRICS
from benchmarks.evaluation.scores import Judged

MOST_SHOWN = 24  # answers of each list
MOST_FAILURES = 20
_THUMBNAIL_PX = 640
_MOST_CHARS = 4000  # of a text


def render(result: Mapping[str, Any], judged: Sequence[Sequence[Judged]]) -> str:
    """The HTML.

    Args:
        result: see `run.result_of`.
        judged: the answers of each of its servers.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("server_line", "percent", "signed", "spread", "p_value", "part", "metric")
    environment.filters |= {name: getattr(tables, name) for name in names}
    others = {each.question.key: each for each in judged[1]} if len(judged) > 1 else {}
    lists = [("The worst answers", [_card(each, others) for each in _worst(judged[0])])]
    if others:
        lists.append(
            ("Where the two differ most", [_card(each, others) for each in _differing(judged[0], others)])
        )
    return environment.get_template("page.html.j2").render(
        result=result,
        charts=list(_charts(result["servers"])),
        differences=list(_differences(result["paired"])),
        lists=lists,
        failures=[
            (server["server"], dict(islice(server["failed"].items(), MOST_FAILURES)), len(server["failed"]))
            for server in result["servers"]
            if server["failed"]
        ],
        is_demo=any("demo" in model for server in result["servers"] for model in server["models"]),
    )


def _charts(servers: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """For each metric its rows, a part each, with the scores of all servers as places on one axis."""
    scores = [score for server in servers for score in server["scores"]]
    for name in dict.fromkeys(score["metric"] for score in scores):
        metric = METRICS[name]
        rows: dict[str, list[Mapping[str, Any] | None]] = {}
        for number, server in enumerate(servers):
            for score in server["scores"]:
                if score["metric"] == name:
                    rows.setdefault(score["part"], [None] * len(servers))[number] = score
        most = max(score["high"] or score["value"] or 0.0 for score in scores if score["metric"] == name)
        end = (most or 1.0) if metric.is_error else 1.0
        yield {
            "title": tables.metric({"metric": name}),
            "end": end,
            "rows": [
                {"part": part, "scores": [(score, _places(score, 0.0, end)) for score in row if score]}
                for part, row in rows.items()
            ],
        }


def _differences(paired: Sequence[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Any]]:
    """Each comparison, and its places on an axis with zero in the middle."""
    ends = [
        abs(row[name]) for row in paired for name in ("difference", "low", "high") if row[name] is not None
    ]
    end = max(ends, default=0.0) or 1.0
    for row in paired:
        yield row, _places({**row, "value": row["difference"]}, -end, end)


def _places(score: Mapping[str, Any], start: float, end: float) -> dict[str, float] | None:
    """Of the value and the interval's ends, in per cent of the axis; without an interval, all the value's."""
    value = score["value"]
    if value is None:
        return None
    low, high = (value if score[name] is None else score[name] for name in ("low", "high"))
    places = {"at": value, "low": low, "high": high}
    return {
        name: round(100 * min(1.0, max(0.0, (x - start) / (end - start))), 2) for name, x in places.items()
    }


def _worst(judged: Sequence[Judged]) -> list[Judged]:
    """The worst of each part in turn."""
    wrong = sorted((each for each in judged if each.badness > 0), key=lambda each: -each.badness)
    parts: dict[str, list[Judged]] = {}
    for each in wrong:
        parts.setdefault(each.question.part, []).append(each)
    return list(islice(filter(None, chain.from_iterable(zip_longest(*parts.values()))), MOST_SHOWN))


def _differing(judged: Sequence[Judged], others: Mapping[str, Judged]) -> list[Judged]:
    pairs = [each for each in judged if each.question.key in others]
    gaps = {each.question.key: abs(each.badness - others[each.question.key].badness) for each in pairs}
    found = sorted(
        (each for each in pairs if gaps[each.question.key] > 0), key=lambda each: -gaps[each.question.key]
    )
    return found[:MOST_SHOWN]


def _card(each: Judged, others: Mapping[str, Judged]) -> dict[str, Any]:
    question = each.question
    answers = [one for one in (each, others.get(question.key)) if one]
    return {
        "question": question,
        "pictures": [_thumbnail(path) for path in question.images],
        "answers": [
            {
                "pieces": _pieces(one),
                "worth": [(METRICS[name].name, _worth(name, one)) for name in question.metrics],
            }
            for one in answers
        ],
    }


def _worth(metric: str, judged: Judged) -> str:
    points, of = judged.points[metric]
    if METRICS[metric].is_error:
        return f"{points:g} of {of:g}"
    return {0.0: "wrong", 1.0: "right"}.get(points, f"{points:.2f}")


def _pieces(judged: Judged) -> list[tuple[str, bool]]:
    """The answer in pieces, each with whether it differs from what is written in the picture."""
    answer = judged.answer[:_MOST_CHARS]
    if judged.question.metrics[0] != "cer" or not answer:
        return [(answer, False)]
    right = judged.question.answers[0].strip()
    start = len(answer) - len(answer.lstrip())
    pieces = [(answer[:start], False)]
    for step in Levenshtein.opcodes(right, answer.strip()):
        piece = answer[start + step.dest_start : start + step.dest_end]
        pieces.append((piece or "\N{MIDDLE DOT}", step.tag != "equal"))  # a dot where something was left out
    return pieces


def _thumbnail(path: str) -> str | None:
    """A data URL; None where the file is no picture that can be shown."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=82)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
