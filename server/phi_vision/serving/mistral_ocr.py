"""Mistral's OCR API: requests as its SDK sends them, answers as it reads them, and what we add to both."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from phi_vision.documents import confidence
from phi_vision.documents.confidence import Confidence
from phi_vision.documents.pages import Attempt, PageResult
from phi_vision.errors import RequestError
from phi_vision.tasks import page_ranges

# Clients hard-code it; on the OCR route it is a name of the model that is served.
MISTRAL_MODEL = "mistral-ocr-latest"

MAX_TILES = 64
MAX_NAME_CHARS = 100  # of a field, in an error
UNKNOWN_DPI = 72  # the SDK requires a number; at this one a pixel is a point of PDF


class FieldRefused(RequestError):
    """A field that is wrong or cannot be served: 422, with the details where Mistral's SDK looks for them."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, status=422)

    def body(self) -> dict[str, Any]:
        """OpenAI's shape, and beside it FastAPI's, which is Mistral's."""
        place = ["body", *(str(self.param or "").split("."))]
        return super().body() | {"detail": [{"loc": place, "msg": str(self), "type": "value_error"}]}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileDocument(_Request):
    """A file that was uploaded."""

    type: Literal["file"]
    file_id: str


class DocumentUrl(_Request):
    """A document by its URL, which may be a data URL."""

    type: Literal["document_url"]
    document_url: str
    document_name: str | None = None  # says nothing about the pages


class ImageUrl(_Request):
    """A picture by its URL, with OpenAI's `detail`."""

    url: str
    detail: Literal["auto", "high"] | None = None  # pages are read at full crops


class ImageDocument(_Request):
    """A picture by its URL, which may be a data URL."""

    type: Literal["image_url"]
    image_url: Annotated[
        ImageUrl, BeforeValidator(lambda value: {"url": value} if type(value) is str else value)
    ]


class JsonSchema(_Request):
    """A named schema."""

    name: str
    schema_definition: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: StrictBool | None = None


class AnnotationFormat(_Request):
    """What an annotation must look like."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class OCRRequest(_Request):
    """The body of `POST /v1/ocr`; `tiles` and `retries` are ours."""

    model: str | None
    document: Annotated[FileDocument | DocumentUrl | ImageDocument, Field(discriminator="type")]
    pages: str | list[StrictInt] | None = None
    include_image_base64: Literal[False] | None = None
    image_limit: StrictInt | None = Field(None, ge=0)  # bounds on pictures that are cut out: there are none
    image_min_size: StrictInt | None = Field(None, ge=0)
    bbox_annotation_format: None = None
    document_annotation_format: AnnotationFormat | None = None
    document_annotation_prompt: str | None = None
    table_format: None = None
    extract_header: Literal[False] | None = None
    extract_footer: Literal[False] | None = None
    include_blocks: StrictBool | None = None  # the SDK asks for them by default; no answer has them
    confidence_scores_granularity: Literal["page", "word"] | None = None
    tiles: Literal["auto", "off"] | Annotated[StrictInt, Field(ge=1, le=MAX_TILES)] = "auto"
    retries: StrictBool = True

    def forget_url(self) -> None:
        """Let go of the document, which a data URL holds whole."""
        match self.document:
            case DocumentUrl() as document:
                document.document_url = ""
            case ImageDocument(image_url=picture):
                picture.url = ""

    @property
    def where(self) -> str:
        """The field that says where the document is."""
        return f"document.{'file_id' if self.document.type == 'file' else self.document.type}"

    @property
    def url(self) -> str:
        """Of the document; empty if it was uploaded."""
        match self.document:
            case DocumentUrl(document_url=url) | ImageDocument(image_url=ImageUrl(url=url)):
                return url
        return ""


# What a field takes and why, where pydantic's own words would not help.
_REASONS = {
    "document.type": "a document is of type 'document_url', 'image_url' or 'file'",
    "include_image_base64": "pictures are not cut out of pages; leave it out or send false",
    "bbox_annotation_format": "pictures are not cut out of pages, so there are none to annotate",
    "table_format": "tables stay in the markdown of their page; leave it out",
    "extract_header": "headers stay in the markdown of their page; leave it out or send false",
    "extract_footer": "footers stay in the markdown of their page; leave it out or send false",
    "confidence_scores_granularity": "confidence is served for 'page' and 'word'",
    "document_annotation_format.type": "only 'json_schema' is served",
    "document.image_url": "a URL, or an object with `url`",
    "document.image_url.detail": "pages are read at full crops: 'high' or 'auto'",
    "pages": "pages are a list of numbers or text like '0,2-4'; the first page is 0",
    "tiles": f"tiles are 'auto', 'off' or a number from 1 to {MAX_TILES}",
}


def parse(body: Mapping[str, Any]) -> OCRRequest:
    """The request.

    Raises:
        FieldRefused: a field is unknown, wrong, or asks for what is not served.
    """
    try:
        request = OCRRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = _param(first["type"], first["loc"])
        if first["type"] == "extra_forbidden":
            raise FieldRefused(f"unknown field {param!r}", param=param) from error
        reason = _REASONS.get(param) if first["type"] != "missing" else None
        raise FieldRefused(f"{param}: {reason or first['msg']}", param=param) from error
    if request.document_annotation_prompt is not None and request.document_annotation_format is None:
        raise FieldRefused(
            "document_annotation_prompt needs a document_annotation_format",
            param="document_annotation_prompt",
        )
    return request


def _param(kind: str, loc: Sequence[str | int]) -> str:
    """The field of an error of pydantic's, without the members of unions that it tried."""
    if kind.startswith("union_tag"):
        return "document.type"
    if loc[0] in ("pages", "tiles"):
        return str(loc[0])
    steps = [loc[0], *loc[2:]] if loc[0] == "document" else loc
    return ".".join(str(step)[:MAX_NAME_CHARS] for step in steps)


def select_pages(pages: str | Sequence[int] | None, num_pages: int, max_pages: int) -> list[int]:
    """The pages to read, from 0, each once, in the order asked for.

    Args:
        pages: as in the request; None: all.
        num_pages: of the document.
        max_pages: of one request.

    Raises:
        FieldRefused: they are no numbers, there are no such pages, or too many.
    """
    try:
        ranges = page_ranges.select(pages, num_pages, base=0)
    except RequestError as error:
        raise FieldRefused(str(error), param="pages") from error
    selected: dict[int, None] = {}
    for page in itertools.chain.from_iterable(ranges):
        selected[page] = None
        if len(selected) > max_pages:
            raise FieldRefused(
                f"pages: at most {max_pages} in one request; the document has {num_pages}: "
                f"choose some, as in '0-{max_pages - 1}'",
                param="pages",
            )
    if not selected:
        raise FieldRefused("pages: none are asked for", param="pages")
    return list(selected)


def page_object(page: PageResult, granularity: Literal["page", "word"] | None) -> dict[str, Any]:
    """A page as the SDK reads it, with more keys of our own."""
    answer: dict[str, Any] = {
        "index": page.index,
        "markdown": page.markdown,
        "images": [],
        "dimensions": _dimensions(page),
        "status": page.status,
        "rotation": page.rotation,
        "tiles": page.tiles,
        "attempts": [_attempt(attempt) for attempt in page.attempts],
        "usage": _usage(page),
    }
    if page.raw_text != page.markdown:
        answer["raw_text"] = page.raw_text
    if page.error is not None:
        answer["error"] = page.error
    if granularity is not None:
        answer["confidence_scores"] = _confidence_scores(page, granularity)
    return answer


def _dimensions(page: PageResult) -> dict[str, int] | None:
    if not page.width:
        return None
    return {"dpi": round(page.dpi or UNKNOWN_DPI), "height": page.height, "width": page.width}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "purpose": attempt.purpose,
        "rotation": attempt.rotation,
        "tiles": attempt.tiles,
        "temperature": attempt.temperature,
        "status": attempt.status,
        "confidence": attempt.confidence,
        "usage": _usage(attempt),
    }


def _usage(of: PageResult | Attempt) -> dict[str, int]:
    """Tokens of all requests to the engine, pictures included."""
    return {"prompt_tokens": of.prompt_tokens, "completion_tokens": of.completion_tokens}


def _confidence_scores(page: PageResult, granularity: Literal["page", "word"]) -> dict[str, Any] | None:
    if granularity == "page":
        return _summary(page.confidence)
    words = page.word_confidences
    summary = _summary(confidence.of_words(words))
    if summary is not None:
        summary["word_confidence_scores"] = [
            {"text": word.text, "confidence": word.confidence, "start_index": word.start_index}
            for word in words
        ]
    return summary


def _summary(scores: Confidence | None) -> dict[str, Any] | None:
    """None where nothing was read."""
    if scores is None:
        return None
    return {
        "average_page_confidence_score": scores.average,
        "minimum_page_confidence_score": scores.minimum,
    }
