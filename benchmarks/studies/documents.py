"""How the demo reads pages: turned, in tiles, again; what that costs; what its confidence is worth.

python -m benchmarks.studies.documents --output benchmarks/results/documents.json

The bounds in `phi_vision.documents` were chosen on pages from other seeds: `tune`, and `documents`, which
showed that a few letters need a higher one; `documents-2` showed that a closer look must not replace the
first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
from demo_training.exam import small_print
from phi_vision.client.exchange import Endpoint
from phi_vision.client.process import local_server
from phi_vision.documents.answers import Answer
from phi_vision.documents.confidence import words
from phi_vision.documents.orientation import ROTATIONS
from phi_vision.documents.pages import PageResult, ReadOptions
from phi_vision.documents.reader import read_page
from phi_vision.documents.readings import LOW_CONFIDENCE, Reading, reading_of
from PIL import Image
from rapidfuzz.distance import Levenshtein

from benchmarks.harness.machine import describe_machine
from benchmarks.studies._documents import Engine, Page, Sheet, dense_page, large_print, slanting, turned

PLAIN = ReadOptions(tiles="off", retries=False)
SLANT_DEGREES = 2.0  # of a page of `tiles`
BINS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)  # of confidence


class Study:
    """Reads pages on one server."""

    def __init__(self, client: httpx.AsyncClient, model: str, parallel: int) -> None:
        self._client = client
        self._model = model
        self._free = asyncio.Semaphore(parallel)

    async def read(self, image: Image.Image, options: ReadOptions) -> tuple[PageResult, list[Answer], float]:
        """The page, all answers in the order in which they ended, and the seconds that it took."""
        async with self._free:
            sheet = Sheet(image)
            engine = Engine(self._client, self._model, sheet)
            started = time.perf_counter()
            result = await read_page(sheet, engine, options)
            return result, engine.answers, time.perf_counter() - started

    async def rotation(self, seeds: str, count: int, num_crops: int) -> list[dict[str, Any]]:
        """`count` pages, each lying in four ways."""

        async def row(number: int, lies: int) -> dict[str, Any]:
            page = large_print(f"{seeds}-turned-{number}")
            result, answers, _ = await self.read(turned(page.image, lies), ReadOptions(num_crops=num_crops))
            first = reading_of(answers[0])
            return {
                "page": number,
                "lies": lies,
                "turned_by": result.rotation,
                "upright": (lies + result.rotation) % 360 == 0,
                "status": result.status,
                "edits": Levenshtein.distance(result.markdown, page.text),
                "chars": len(page.text),
                "confidence": _rounded(result),
                "reads": sum(attempt.purpose == "read" for attempt in result.attempts),
                "looks": sum(attempt.purpose == "orientation" for attempt in result.attempts),
                "tokens": result.prompt_tokens + result.completion_tokens,
                "first_tokens": first.prompt_tokens + first.completion_tokens,
                "first_confidence": round(first.confidence or 0.0, 4),
            }

        async def page(number: int) -> list[dict[str, Any]]:
            return [await row(number, lies) for lies in ROTATIONS]  # the engine knows their views by then

        return [row for rows in await asyncio.gather(*map(page, range(count))) for row in rows]

    async def seconds(self, seeds: str, count: int, num_crops: int) -> list[dict[str, Any]]:
        """What a page costs that is sure at once, and what looks and another reading cost. One at a time."""

        async def row(number: int, lies: int) -> dict[str, Any]:
            image = turned(large_print(f"{seeds}-seconds-{number}-{lies}").image, lies)
            result, answers, seconds = await self.read(image, ReadOptions(num_crops=num_crops))
            return {
                "lies": lies,
                "requests": len(answers),
                "tokens": result.prompt_tokens + result.completion_tokens,
                "seconds": round(seconds, 2),
            }

        return [await row(number, lies) for number in range(count) for lies in ROTATIONS]

    async def tiles(self, seeds: str, count: int, num_crops: int) -> list[dict[str, Any]]:
        """Dense pages: whole with 16 crops, as they are read by default, and so when they slant."""

        async def row(number: int) -> dict[str, Any]:
            page = dense_page(f"{seeds}-dense-{number}")
            found: dict[str, Any] = {"page": number, "chars": len(page.text)}
            usual = ReadOptions(num_crops=num_crops)
            for name, options, degrees in (
                ("whole", PLAIN, 0.0),
                ("tiles", usual, 0.0),
                ("slanting", usual, SLANT_DEGREES),
            ):
                result, answers, seconds = await self.read(slanting(page.image, degrees), options)
                found[name] = {
                    "tiles": result.tiles,
                    "rotation": result.rotation,
                    "status": result.status,
                    "edits": Levenshtein.distance(result.markdown, page.text),
                    "confidence": _rounded(result),
                    "requests": len(answers),
                    "prompt_tokens": result.prompt_tokens,
                    "completion_tokens": result.completion_tokens,
                    "seconds": round(seconds, 2),
                }
            return found

        return [await row(number) for number in range(count)]  # one at a time, for the seconds

    async def calibration(self, seeds: str, count: int) -> dict[str, Any]:
        """Large and small print read whole, once: each word with its confidence, and whether it is right."""

        async def read(page: Page, num_crops: int) -> tuple[Reading, Page]:
            options = ReadOptions(tiles="off", retries=False, num_crops=num_crops)
            _, answers, _ = await self.read(page.image, options)
            return reading_of(answers[0]), page

        pages = [(large_print(f"{seeds}-words-{number}"), 4) for number in range(count)]
        small = [small_print(f"{seeds}-words-{number}") for number in range(count)]
        pages += [(Page(drawing.image, "\n".join(drawing.lines)), 16) for drawing in small]
        readings = await asyncio.gather(*(read(page, num_crops) for page, num_crops in pages))
        return {
            "words": [word for reading, page in readings for word in _judged(reading, page.text)],
            "pages": [
                {
                    "confidence": round(reading.confidence or 0.0, 4),
                    "character_errors": round(_errors(reading.text, page.text), 4),
                }
                for reading, page in readings
            ],
        }


def _judged(reading: Reading, truth: str) -> list[tuple[float, bool]]:
    """Confidence of each word that was read, and whether the page has it in this place."""
    found = words(reading.text, reading.tokens)
    matcher = SequenceMatcher(None, [word.text for word in found], truth.split(), autojunk=False)
    right = {block.a + i for block in matcher.get_matching_blocks() for i in range(block.size)}
    return [(round(word.confidence, 4), number in right) for number, word in enumerate(found)]


def _errors(read: str, truth: str) -> float:
    return Levenshtein.distance(read, truth) / len(truth)


def _rounded(result: PageResult) -> float | None:
    return None if result.confidence is None else round(result.confidence.average, 4)


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The figures of the documentation."""
    found: dict[str, Any] = {}
    if turned_pages := rows.get("rotation"):
        found["rotation"] = {
            ("upright" if lies == 0 else f"turned by {lies}"): {
                "pages": len(group),
                "end_upright": _mean(row["upright"] for row in group),
                "character_errors": _share(group, "edits", "chars"),
                "tried_again": _mean(row["reads"] + row["looks"] > 1 for row in group),
                "tokens": fmean(row["tokens"] for row in group),
                "tokens_of_one_reading": fmean(row["first_tokens"] for row in group),
            }
            for lies in ROTATIONS
            if (group := [row for row in turned_pages if row["lies"] == lies])
        }
        found["end_upright"] = _mean(row["upright"] for row in turned_pages)
    if timed := rows.get("seconds"):
        found["seconds"] = {
            ("upright" if lies == 0 else f"turned by {lies}"): {
                key: _mean(row[key] for row in timed if row["lies"] == lies)
                for key in ("requests", "tokens", "seconds")
            }
            for lies in ROTATIONS
        }
    if dense := rows.get("tiles"):
        found["tiles"] = {
            name: {
                "pages": len(dense),
                "character_errors": sum(row[name]["edits"] for row in dense) / sum(r["chars"] for r in dense),
                **{
                    key: fmean(row[name][key] for row in dense)
                    for key in ("tiles", "requests", "prompt_tokens", "completion_tokens", "seconds")
                },
            }
            for name in ("whole", "tiles", "slanting")
            if name in dense[0]  # rows that are kept may be older than a name
        }
    if calibration := rows.get("calibration"):
        found["words"] = _bins(calibration["words"])
        found["pages"] = _bins(
            [(page["confidence"], page["character_errors"] == 0) for page in calibration["pages"]]
        )
        found["unsure_pages"] = {
            side: {"pages": len(group), "character_errors": _mean(page["character_errors"] for page in group)}
            for side, group in (
                ("sure", [p for p in calibration["pages"] if p["confidence"] >= LOW_CONFIDENCE]),
                ("unsure", [p for p in calibration["pages"] if p["confidence"] < LOW_CONFIDENCE]),
            )
        }
    return found


def _bins(judged: list[tuple[float, bool]]) -> list[dict[str, Any]]:
    """Mean confidence beside the share that is right, of each part of the scale; empty parts left out."""
    rows = []
    for low, high in pairwise(BINS):
        inside = [(c, right) for c, right in judged if low <= c < high or (c == high == 1.0)]
        if inside:
            row = {"from": low, "to": high, "count": len(inside), "confidence": fmean(c for c, _ in inside)}
            rows.append({**row, "right": fmean(right for _, right in inside)})
    return rows


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else 0.0


def _share(rows: list[dict[str, Any]], part: str, whole: str) -> float:
    return sum(row[part] for row in rows) / sum(row[whole] for row in rows)


async def measure(endpoint: Endpoint, args: argparse.Namespace) -> dict[str, Any]:
    """All parts that were asked for."""
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    async with httpx.AsyncClient(
        base_url=endpoint.base_url + "/",
        headers=headers,
        timeout=1800,
        limits=httpx.Limits(max_keepalive_connections=0),  # one may be closed while this process is busy
    ) as client:
        served = (await client.get("models")).raise_for_status().json()["data"][0]["id"]
        study = Study(client, f"{served}:ocr", args.parallel)
        rows: dict[str, Any] = {}
        for part in args.parts.split(","):
            started = time.perf_counter()
            match part:
                case "rotation":
                    rows[part] = await study.rotation(args.seeds, args.pages, args.num_crops)
                case "seconds":
                    rows[part] = await study.seconds(args.seeds, args.timed_pages, args.num_crops)
                case "tiles":
                    rows[part] = await study.tiles(args.seeds, args.dense_pages, args.num_crops)
                case "calibration":
                    rows[part] = await study.calibration(args.seeds, args.pages)
            print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
            _write(args, rows)
        return rows


def _write(args: argparse.Namespace, rows: dict[str, Any]) -> None:
    if args.output:
        kept = json.loads(args.output.read_text())["rows"] if args.output.exists() else {}
        rows = {**kept, **rows}
        result = {
            "machine": describe_machine(),
            "server": " ".join(["phi-vision serve --model demo", *args.flags]),
            "seeds": args.seeds,
            "low_confidence": LOW_CONFIDENCE,
            "num_crops": args.num_crops,
            "summary": summary(rows),
            "rows": rows,
        }
        args.output.write_text(json.dumps(result, indent=None) + "\n")


def main() -> None:
    """Measure, print the figures, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", help="a running server, with $VLLM_API_KEY; without, one is started")
    parser.add_argument(
        "--parts", default="rotation,seconds,tiles,calibration", help="(default: %(default)s)"
    )
    parser.add_argument("--pages", type=int, default=52, help="each in four rotations (default: %(default)s)")
    parser.add_argument("--timed-pages", type=int, default=8, help="likewise (default: %(default)s)")
    parser.add_argument("--dense-pages", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--num-crops", type=int, default=4, help="of each reading (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=48, help="pages at a time (default: %(default)s)")
    parser.add_argument("--seeds", default="documents-3", help="of the pages (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="parts that are not measured anew keep their figures")
    parser.add_argument("flags", nargs="*", metavar="-- FLAGS", help="of the server")
    args = parser.parse_args()
    running = (
        nullcontext(Endpoint(args.base_url, os.environ.get("VLLM_API_KEY")))
        if args.base_url
        else local_server("auto", "--model", "demo", *args.flags)
    )
    with running as endpoint:
        rows = asyncio.run(measure(endpoint, args))
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
