"""A page that is read: where it comes from, what is asked about it, how, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from phi_vision.documents.answers import Answer, Status, Token
from phi_vision.documents.confidence import Confidence, WordConfidence, of_tokens, words
from phi_vision.media.view import PageView, Rotation
from phi_vision.model.canvas import Canvas
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks.presets import PRESETS

Fixed = Literal["rotation", "tiles", "num_crops", "max_tokens", "temperature"]


class PageSource(Protocol):
    """A page that can be drawn."""

    async def canvas(self, view: PageView, num_crops: int) -> Canvas:
        """What a view shows of the page, which is known here: the view's own number says nothing.

        Raises:
            RequestError: it cannot be drawn.
        """
        ...


class Ask(Protocol):
    """The engine, with log-probabilities."""

    async def __call__(
        self,
        canvases: Sequence[Canvas],
        prompt: str | None,
        *,
        max_tokens: int,
        temperature: float,
        response_format: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Answer a prompt about pictures.

        Raises:
            RequestError: the engine does not take the request.
        """
        ...


@dataclass(frozen=True)
class ReadOptions:
    """How a page is to be read.

    Args:
        prompt: None for that of the task `ocr`.
        rotation: where to begin, in degrees clockwise.
        tiles: the parts that a page is read in: `auto` for as many as small print takes, `off` for one, or
            the most that it is cut into, whatever its print.
        num_crops: of each picture that is read, at most.
        max_tokens: of each answer.
        temperature: 0 for the likeliest token.
        retries: whether a page that was not read well is tried again.
        fixed: the fields that the client has set. No attempt changes them.
    """

    prompt: str | None = None
    rotation: Rotation = 0
    tiles: Literal["auto", "off"] | int = "auto"
    num_crops: int = PHI_3_5_VISION.max_num_crops
    max_tokens: int = PRESETS["ocr"].fields["max_tokens"]
    temperature: float = PRESETS["ocr"].fields["temperature"]
    retries: bool = True
    fixed: frozenset[Fixed] = frozenset()


@dataclass(frozen=True)
class Attempt:
    """One way that a page was read in, and what came of it.

    Args:
        purpose: `read`; or `orientation`, a short look at which way is up.
        rotation: degrees clockwise that the page was turned by.
        tiles: parts that it was read in.
        temperature: of sampling.
        status: of the text.
        confidence: average of its tokens; None where there are none.
        prompt_tokens: of all its requests.
        completion_tokens: of all its answers.
        error: of the engine, where it took no request.
    """

    purpose: Literal["read", "orientation"]
    rotation: Rotation
    tiles: int
    temperature: float
    status: Status
    confidence: float | None
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None


@dataclass(frozen=True)
class PageResult:
    """A page as it was read.

    Args:
        index: of the page in its file, from 0.
        markdown: its text.
        raw_text: what the model answered, commentary and loops included; parts joined with newlines.
        status: what can be said of `markdown`.
        attempts: all that was tried, in order.
        rotation: degrees clockwise that it is turned by to stand upright.
        tiles: parts that it was read in; 0 where it was not.
        width: pixels of the upright page.
        height: the same.
        dpi: of these, where the file says so.
        tokens: placed in `markdown`.
        prompt_tokens: of all attempts.
        completion_tokens: of all attempts.
        error: why it failed, where it could not be drawn or asked about.
    """

    index: int
    markdown: str
    raw_text: str
    status: Status
    attempts: tuple[Attempt, ...]
    rotation: Rotation
    tiles: int
    width: int
    height: int
    dpi: float | None
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None

    @property
    def confidence(self) -> Confidence | None:
        """Of the tokens; None where nothing was read."""
        return of_tokens(self.tokens)

    @property
    def word_confidences(self) -> list[WordConfidence]:
        """Of each word of `markdown`; `confidence.of_words` makes one of them."""
        return words(self.markdown, self.tokens)
