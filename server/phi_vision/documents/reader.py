"""Reads a page: what is asked of the model, how often, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from phi_vision.documents.orientation import LOOK_CROPS, LOOK_TOKENS, ROTATIONS, upright
from phi_vision.documents.pages import Ask, Attempt, Fixed, PageResult, PageSource, ReadOptions
from phi_vision.documents.readings import MISSING, Reading, joined, reading_of
from phi_vision.documents.side_by_side import side_by_side
from phi_vision.documents.ways import Way, in_parts, is_small_print, way_of
from phi_vision.errors import RequestError
from phi_vision.media.view import PageView, Rotation
from phi_vision.model.canvas import Canvas

RETRY_TEMPERATURE = 0.2
"""How much warmer the last attempt is."""


async def read_page(page: PageSource, ask: Ask, options: ReadOptions, index: int = 0) -> PageResult:
    """Read a page; where it was not read well, again and otherwise; and keep the best.

    1. A blank page is not read.
    2. Was it read without confidence, short looks at the page in each rotation say which way is up.
    3. Is the text still in doubt, or the print small, the page is read in tiles.
    4. What is in doubt even then is read with a little temperature.

    Nothing of this changes what the client has fixed.

    Args:
        page: what to read.
        ask: what answers.
        options: how.
        index: of the page in its file, from 0.

    Raises:
        RequestError: the page cannot be drawn, or the engine does not take a request of the first reading.
            One that fails later costs its attempt only.
    """
    return await _Reader(page, ask, options).read(index)


@dataclass(frozen=True)
class _Found:
    """A reading of the page, and of its parts."""

    way: Way
    parts: tuple[Reading, ...]  # one a view
    whole: Reading


class _Reader:
    """Reads one page; keeps what was tried, and the best of it."""

    def __init__(self, page: PageSource, ask: Ask, options: ReadOptions) -> None:
        self._page = page
        self._ask = ask
        self._options = options
        self._attempts: list[Attempt] = []
        self._best: _Found | None = None

    async def read(self, index: int) -> PageResult:
        """All of it, see `read_page`."""
        way = await self._way(self._options.rotation)
        if not way.is_blank:
            await self._first(way)
            await self._closer()
            await self._warmer()
        return self._result(index, way)

    async def _first(self, way: Way) -> None:
        """As it comes; the part with the most print first, which tells whether the page may be turned."""
        number = way.with_most_print
        opening = await self._part(way, way.views[number])
        parts = {number: opening}
        if len(way.views) == 1:
            self._note(way, parts, [opening])
        upright = way
        if opening.is_unsure and self._may("rotation"):
            upright = await self._upright(way)
        if upright is way and len(way.views) > 1:
            await self._read(way, parts, [opening])
        elif upright is not way:
            if len(way.views) > 1:
                self._note(way, parts, [opening])
            await self._try(upright)

    async def _closer(self) -> None:
        """In tiles, which show more of each character."""
        way, reading = self._found.way, self._found.whole
        if self._may_split and not (self._is_good(reading) and not is_small_print(way.layout, reading)):
            closer = await in_parts(way, self._options)
            if len(closer.views) > len(way.views):
                await self._try(closer)

    async def _warmer(self) -> None:
        """The parts in doubt with a temperature, which leads out of loops."""
        found = self._found
        if self._may("temperature") and found.whole.is_unsure:
            way = replace(found.way, temperature=found.way.temperature + RETRY_TEMPERATURE)
            await self._try(
                way, {number: part for number, part in enumerate(found.parts) if not part.is_unsure}
            )

    # What may be tried.

    def _may(self, field_name: Fixed) -> bool:
        return self._options.retries and field_name not in self._options.fixed

    @property
    def _may_split(self) -> bool:
        # More parts are more crops: where their number is fixed, so is that.
        return self._options.tiles == "auto" and self._may("tiles") and self._may("num_crops")

    def _is_good(self, reading: Reading) -> bool:
        if reading.status == "truncated" and not self._may("max_tokens"):
            return True  # as long as it was asked to be
        return reading.status == "complete" and not reading.is_unsure

    # How it is done.

    async def _way(self, rotation: Rotation) -> Way:
        return await way_of(self._page, rotation, self._options)

    async def _upright(self, way: Way) -> Way:
        """The page turned so that it is read best; `way` itself where it is so already."""
        try:
            looks = [await self._look(way, closer=False)]
            whole = len(way.views) == 1
            if whole and self._may_split and all(look.is_unsure for look in looks[0].values()):
                looks.append(await self._look(way, closer=True))
            rotation = upright(looks)
            return way if rotation in (None, way.rotation) else await self._way(rotation)
        except RequestError:
            return way

    async def _look(self, way: Way, *, closer: bool) -> dict[Rotation, Reading]:
        """What is read in each rotation."""
        looks = await side_by_side(self._look_at(way, turned, closer=closer) for turned in ROTATIONS)
        return dict(zip(ROTATIONS, looks, strict=True))

    async def _look_at(self, way: Way, rotation: Rotation, *, closer: bool) -> Reading:
        view, num_crops = replace(way.whole, rotation=rotation), min(LOOK_CROPS, self._options.num_crops)
        if closer or len(way.views) > 1:
            turned = way if rotation == way.rotation else await self._way(rotation)
            if closer:
                turned = await in_parts(turned, self._options)
            view, num_crops = turned.views[turned.with_most_print], self._options.num_crops
        canvas = await self._page.canvas(view, num_crops)
        reading = await self._ask_about(canvas, way.temperature, min(LOOK_TOKENS, self._options.max_tokens))
        self._add_attempt("orientation", replace(way, whole=view, views=(view,)), reading, [reading])
        return reading

    async def _try(self, way: Way, known: Mapping[int, Reading] = MappingProxyType({})) -> None:
        """Read it so; a request that fails costs this attempt only."""
        try:
            await self._read(way, known)
        except RequestError as error:
            self._add_attempt("read", way, MISSING, [], str(error))

    async def _read(self, way: Way, known: Mapping[int, Reading], asked: Sequence[Reading] = ()) -> None:
        """Read the parts that are not known, side by side; what was `asked` counts for this attempt too."""
        unknown = [number for number in range(len(way.views)) if number not in known]
        found = await side_by_side(self._part(way, way.views[number]) for number in unknown)
        self._note(way, {**known, **dict(zip(unknown, found, strict=True))}, [*asked, *found])

    async def _part(self, way: Way, view: PageView) -> Reading:
        canvas = way.canvas
        if view != way.whole:
            canvas = await self._page.canvas(view, self._options.num_crops)
        return await self._ask_about(canvas, way.temperature, self._options.max_tokens)

    async def _ask_about(self, canvas: Canvas, temperature: float, max_tokens: int) -> Reading:
        answer = await self._ask(
            [canvas], self._options.prompt, max_tokens=max_tokens, temperature=temperature
        )
        return reading_of(answer)

    # What is kept.

    @property
    def _found(self) -> _Found:
        assert self._best is not None
        return self._best

    def _note(self, way: Way, parts: Mapping[int, Reading], asked: Sequence[Reading]) -> None:
        """An attempt that is over; kept if it is the best."""
        readings = tuple(parts.get(number, MISSING) for number in range(len(way.views)))
        whole = joined(readings)
        self._add_attempt("read", way, whole, asked)
        if self._best is None or whole.rank > self._best.whole.rank:
            self._best = _Found(way, readings, whole)

    def _add_attempt(
        self,
        purpose: Literal["read", "orientation"],
        way: Way,
        reading: Reading,
        asked: Sequence[Reading],
        error: str | None = None,
    ) -> None:
        self._attempts.append(
            Attempt(
                purpose=purpose,
                rotation=way.rotation,
                tiles=len(way.views),
                temperature=way.temperature,
                status=reading.status,
                confidence=reading.confidence,
                prompt_tokens=sum(each.prompt_tokens for each in asked),
                completion_tokens=sum(each.completion_tokens for each in asked),
                error=error,
            )
        )

    def _result(self, index: int, first: Way) -> PageResult:
        nothing = _Found(replace(first, views=()), (), Reading("", "", "blank"))
        way, reading = (self._best or nothing).way, (self._best or nothing).whole
        return PageResult(
            index=index,
            markdown=reading.text,
            raw_text=reading.raw_text,
            status=reading.status,
            attempts=tuple(self._attempts),
            rotation=way.rotation,
            tiles=len(way.views),
            width=way.page.width,
            height=way.page.height,
            dpi=way.page.dpi,
            tokens=reading.tokens,
            prompt_tokens=sum(attempt.prompt_tokens for attempt in self._attempts),
            completion_tokens=sum(attempt.completion_tokens for attempt in self._attempts),
        )
