"""Reading a page, with an engine that answers from a script."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from demo_training.pictures import PRINT_EM, draw_text
from phi_vision.documents.answers import Answer
from phi_vision.documents.layout import Layout
from phi_vision.documents.pages import Attempt, PageResult, ReadOptions
from phi_vision.documents.reader import RETRY_TEMPERATURE, read_page
from phi_vision.errors import RequestError
from phi_vision.media.pages import shown
from phi_vision.media.view import Frame, PageView, Region, Rotation
from phi_vision.model.canvas import Canvas, resize_and_pad
from PIL import Image

PAGE = draw_text(Random("reader"), em=PRINT_EM, lines=(4, 4)).image
BANDS = [Region(0, 0, 1, 0.25), Region(0, 0.25, 1, 0.5), Region(0, 0.5, 1, 1)]
PARTS = [PageView(region=band, frame=Frame(1, 1)) for band in BANDS]


@dataclass(frozen=True)
class Seen:
    """What the engine was asked."""

    rotation: Rotation
    region: Region | None
    num_crops: int
    temperature: float
    max_tokens: int

    @property
    def is_look(self) -> bool:
        return self.max_tokens == 40


@dataclass
class Scripted:
    """A page and an engine; `answer` says what is read of which view."""

    answer: Callable[[Seen], Answer]
    image: Image.Image = field(default_factory=lambda: PAGE)
    asked: list[Seen] = field(default_factory=list)
    views: list[PageView] = field(default_factory=list)
    _num_crops: list[int] = field(default_factory=list)

    async def canvas(self, view: PageView, num_crops: int) -> Canvas:
        part = shown(self.image, view)
        key = str(len(self.views))
        self.views.append(view)
        self._num_crops.append(num_crops)
        return Canvas(resize_and_pad(part, num_crops), part.width, part.height, num_crops, key)

    async def ask(
        self,
        canvases: Sequence[Canvas],
        prompt: str | None,
        *,
        max_tokens: int,
        temperature: float,
        response_format: Mapping[str, Any] | None = None,
    ) -> Answer:
        [canvas] = canvases
        view, number = self.views[int(canvas.key)], self._num_crops[int(canvas.key)]
        seen = Seen(view.rotation, view.region, number, temperature, max_tokens)
        self.asked.append(seen)
        await asyncio.sleep(0)
        return self.answer(seen)

    def read(self, **options: Any) -> PageResult:
        options = {"num_crops": 1} | options
        return asyncio.run(read_page(self, self.ask, ReadOptions(**options), 7))


def said(text: str, probability: float = 0.99, finish_reason: str = "stop") -> Answer:
    logprobs = [(char, math.log(probability)) for char in text]
    return Answer.from_logprobs(
        text, logprobs, finish_reason=finish_reason, prompt_tokens=10, completion_tokens=len(text)
    )


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Where print is wanted larger than it is, the page falls into `BANDS`. What was wanted is noted."""
    wanted: list[tuple[int, float]] = []

    def tiles(self: Layout, max_tiles: int, num_crops: int, x_height_px: float) -> list[PageView]:
        wanted.append((max_tiles, x_height_px))
        return PARTS[:max_tiles] if x_height_px > (self.x_height_px or 0) else []

    monkeypatch.setattr(Layout, "tiles", tiles)
    return wanted


def ways(attempts: Sequence[Attempt]) -> list[tuple[str, int, int, float]]:
    return [(each.purpose, each.rotation, each.tiles, each.temperature) for each in attempts]


def test_a_page_that_is_read_with_confidence_costs_one_request() -> None:
    page = Scripted(lambda seen: said("MENU\nTEA 2.50"))
    result = page.read()
    assert len(page.asked) == 1
    assert (result.index, result.markdown, result.status) == (7, "MENU\nTEA 2.50", "complete")
    assert (result.rotation, result.tiles) == (0, 1)
    assert (result.width, result.height) == PAGE.size
    assert result.confidence is not None
    assert result.confidence.average == pytest.approx(0.99)
    assert ways(result.attempts) == [("read", 0, 1, 0.0)]
    assert (result.prompt_tokens, result.completion_tokens) == (10, 13)


def test_a_blank_page_does_not_reach_the_model() -> None:
    page = Scripted(lambda seen: said("INVENTED"), Image.new("RGB", (500, 400), "white"))
    result = page.read()
    assert page.asked == []
    assert (result.status, result.markdown, result.tiles, result.attempts) == ("blank", "", 0, ())
    assert result.confidence is None


def test_commentary_is_in_the_raw_text_only_and_words_are_placed_without_it() -> None:
    page = Scripted(lambda seen: said("The text in the image is:\n```\nGO 5\n```"))
    result = page.read()
    assert result.markdown == "GO 5"
    assert result.raw_text.startswith("The text in the image")
    assert [(word.text, word.start_index) for word in result.word_confidences] == [("GO", 0), ("5", 3)]


@pytest.mark.parametrize("upright", [90, 180, 270])
def test_a_turned_page_is_read_upright(upright: Rotation) -> None:
    page = Scripted(
        lambda seen: said(
            "UP" if seen.rotation == upright else "DN", 0.99 if seen.rotation == upright else 0.8
        )
    )
    result = page.read(num_crops=16)
    assert (result.markdown, result.rotation, result.status) == ("UP", upright, "complete")
    assert result.attempts[0].rotation == 0
    looks = [seen for seen in page.asked if seen.is_look]
    assert {seen.num_crops for seen in looks} == {4}
    assert upright in {seen.rotation for seen in looks}
    assert ways(result.attempts)[-1] == ("read", upright, 1, 0.0)
    assert result.prompt_tokens == 10 * len(page.asked)


def test_a_page_that_looks_best_as_it_is_is_not_turned() -> None:
    page = Scripted(lambda seen: said("HARD", 0.85 if seen.rotation == 0 else 0.5))
    result = page.read(fixed=frozenset({"tiles", "temperature"}))
    assert (result.markdown, result.rotation, result.status) == ("HARD", 0, "complete")
    assert [way for way in ways(result.attempts) if way[0] == "read"] == [("read", 0, 1, 0.0)]


def test_a_worse_reading_of_the_turned_page_is_not_kept() -> None:
    def answer(seen: Seen) -> Answer:
        return said(
            "SECOND" if seen.rotation == 180 else "FIRST",
            0.9 if seen.is_look and seen.rotation == 180 else 0.7,
        )

    result = Scripted(answer).read(fixed=frozenset({"tiles", "temperature"}))
    assert (result.markdown, result.rotation) == ("FIRST", 0)


def test_a_slanting_page_is_read_level(bands: list[tuple[int, float]]) -> None:
    slanting = PAGE.rotate(-2, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    page = Scripted(
        lambda seen: said("BAND" if seen.region else "DOUBTFUL", 0.99 if seen.region else 0.5), slanting
    )
    result = page.read(fixed=frozenset({"rotation"}))
    assert result.tiles == 3 and (result.width, result.height) == slanting.size
    unlevelled, *views = page.views
    assert unlevelled == PageView()
    assert [view.slant for view in views] == pytest.approx([math.tan(math.radians(2))] * 4, abs=0.003)


@pytest.mark.usefixtures("bands")
def test_a_page_in_doubt_is_read_in_tiles_in_their_order() -> None:
    def answer(seen: Seen) -> Answer:
        if seen.region in BANDS and seen.rotation == 0:
            return said(f"BAND {BANDS.index(seen.region)}")
        return said("Too small to read.")

    result = Scripted(answer).read()
    assert (result.markdown, result.status, result.tiles) == ("BAND 0\nBAND 1\nBAND 2", "complete", 3)
    assert [word.start_index for word in result.word_confidences] == [0, 5, 7, 12, 14, 19]
    assert ways(result.attempts)[-1] == ("read", 0, 3, 0.0)
    first = result.attempts[0]
    assert (first.status, first.confidence) == ("failed", None)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "x_height_px", 5.0)
    monkeypatch.setattr(Layout, "tiles", lambda self, most, num_crops, height: PARTS)


@pytest.mark.parametrize(("words", "tiles"), [(100, 3), (10, 1)])
def test_much_small_print_is_read_in_tiles_however_sure_the_whole_is(
    monkeypatch: pytest.MonkeyPatch, words: int, tiles: int
) -> None:
    small(monkeypatch)
    text = " ".join(f"WORD{number}" for number in range(words))
    result = Scripted(lambda seen: said("BAND") if seen.region else said(text, 0.98)).read()
    assert (result.tiles, result.status) == (tiles, "complete")


def test_the_part_with_the_most_print_is_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    page = Scripted(lambda seen: said("BAND"))
    result = page.read(tiles=3)
    assert len(page.asked) == 3
    assert {seen.region for seen in page.asked} == set(BANDS)
    assert ways(result.attempts) == [("read", 0, 3, 0.0)]


def test_a_turned_page_of_small_print_costs_one_tile_before_it_is_turned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Layout, "tiles", lambda self, most, num_crops, height: PARTS)
    page = Scripted(lambda seen: said("UP", 0.99 if seen.rotation == 180 else 0.6))
    result = page.read(tiles=3)
    assert (result.rotation, result.tiles, result.status) == (180, 3, "complete")
    assert sum(seen.rotation == 0 and not seen.is_look for seen in page.asked) == 1
    [first, last] = [attempt for attempt in result.attempts if attempt.purpose == "read"]
    assert (first.status, last.status) == ("truncated", "complete")  # the rest was not read first


@pytest.mark.usefixtures("bands")
def test_a_loop_is_cut_and_led_out_of_by_temperature() -> None:
    loop = "START\n" + "the same line again and again\n" * 40

    def answer(seen: Seen) -> Answer:
        if seen.temperature and seen.region is None:
            return said("THE END")
        return said(loop, 0.999, "repetition")

    result = Scripted(answer).read(tiles="off")
    assert (result.markdown, result.status) == ("THE END", "complete")
    assert ways(result.attempts)[-1] == ("read", 0, 1, RETRY_TEMPERATURE)
    assert result.attempts[0].status == "repetition"


def test_where_nothing_leads_out_of_the_loop_the_text_before_it_is_kept_once() -> None:
    loop = "START\n" + "the same line again and again\n" * 40
    result = Scripted(lambda seen: said(loop, 0.999, "length")).read(fixed=frozenset({"tiles"}))
    assert result.status == "repetition"
    assert result.markdown.startswith("START\nthe same line")
    assert len(result.markdown) < len(loop) / 5
    assert len(result.raw_text) == len(loop)


@pytest.mark.usefixtures("bands")
def test_only_the_tiles_in_doubt_are_read_again_with_temperature() -> None:
    def answer(seen: Seen) -> Answer:
        if seen.region == BANDS[1]:
            return said("WARM" if seen.temperature else "COLD", 0.99 if seen.temperature else 0.5)
        return said("SURE")

    page = Scripted(answer)
    result = page.read(tiles=3, fixed=frozenset({"tiles"}))
    assert (result.markdown, result.status) == ("SURE\nWARM\nSURE", "complete")
    assert [seen.region for seen in page.asked if seen.temperature] == [BANDS[1]]
    assert result.prompt_tokens == 10 * len(page.asked)


@pytest.mark.usefixtures("bands")
def test_a_long_page_that_was_cut_is_read_in_tiles_and_never_turned() -> None:
    page = Scripted(lambda seen: said("PART") if seen.region else said("LONG TEXT", 0.99, "length"))
    result = page.read()
    assert (result.status, result.tiles) == ("complete", 3)
    assert len(page.asked) == 4


@pytest.mark.parametrize(
    ("options", "fixed"),
    [
        ({"retries": False}, ()),
        ({}, ("rotation", "tiles", "temperature")),
        ({}, ("rotation", "num_crops", "temperature")),
        ({"tiles": "off"}, ("rotation", "temperature")),
    ],
)
@pytest.mark.usefixtures("bands")
def test_what_the_client_has_fixed_is_not_tried_otherwise(
    options: dict[str, Any], fixed: tuple[str, ...]
) -> None:
    page = Scripted(lambda seen: said("HARD", 0.5))
    result = page.read(fixed=frozenset(fixed), **options)
    assert len(page.asked) == len(result.attempts) == 1


def test_a_page_as_long_as_the_client_allowed_is_not_tried_again() -> None:
    page = Scripted(lambda seen: said("LONG", 0.99, "length"))
    result = page.read(max_tokens=4, fixed=frozenset({"max_tokens"}))
    assert (result.status, len(page.asked)) == ("truncated", 1)


def test_the_clients_number_of_tiles_is_the_most(bands: list[tuple[int, float]]) -> None:
    result = Scripted(lambda seen: said("HARD", 0.5)).read(tiles=2)
    assert {most for most, _ in bands} == {2}
    assert {attempt.tiles for attempt in result.attempts if attempt.purpose == "read"} == {2}


def test_at_most_three_more_readings(bands: list[tuple[int, float]]) -> None:
    def answer(seen: Seen) -> Answer:
        return said("DOUBTFUL", 0.6 if seen.is_look and seen.rotation == 180 else 0.5)

    result = Scripted(answer).read()
    assert [attempt.purpose for attempt in result.attempts].count("read") == 4


def test_a_request_that_fails_after_the_first_costs_its_attempt_only(bands: list[tuple[int, float]]) -> None:
    def answer(seen: Seen) -> Answer:
        if seen.rotation == 0 and seen.region is None and not seen.temperature and not seen.is_look:
            return said("HARD", 0.5)
        raise RequestError("the server is full", status=429)

    result = Scripted(answer).read()
    assert (result.markdown, result.status) == ("HARD", "complete")
    assert [attempt.error for attempt in result.attempts if attempt.error] == ["the server is full"] * 2


def test_the_first_requests_error_is_the_callers() -> None:
    def answer(seen: Seen) -> Answer:
        raise RequestError("the server is full", status=429)

    with pytest.raises(RequestError, match="full"):
        Scripted(answer).read()


def test_a_page_that_nothing_can_read_has_failed() -> None:
    result = Scripted(lambda seen: said("I do not know.")).read()
    assert (result.status, result.markdown, result.confidence) == ("failed", "", None)
    assert result.raw_text == "I do not know."


def test_a_missing_part_is_not_called_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "tiles", lambda self, most, num_crops, height: PARTS)
    refused = Scripted(lambda seen: said("I do not know." if seen.region == BANDS[1] else "TEXT"))
    result = refused.read(tiles=3, fixed=frozenset({"rotation", "temperature"}))
    assert (result.status, result.markdown) == ("truncated", "TEXT\nTEXT")
