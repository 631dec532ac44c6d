"""`POST /v1/ocr` in Mistral's shape: the pages of a document, each a request of its own to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.serve.utils.api_utils import (
    load_aware_call,
    validate_json_request,
    with_cancellation,
)

from phi_vision.documents.pages import PageResult, ReadOptions
from phi_vision.documents.reader import read_page
from phi_vision.documents.side_by_side import side_by_side
from phi_vision.errors import RequestError
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.view import PageView
from phi_vision.model.canvas import Canvas
from phi_vision.model.crops import CropLimit, CropPolicy
from phi_vision.serving import annotation, metrics, mistral_ocr, openapi
from phi_vision.serving.engine_ask import EngineAsk
from phi_vision.serving.media_files import MediaFile
from phi_vision.serving.middleware import request_counts
from phi_vision.serving.middleware.fields import OCR
from phi_vision.serving.mistral_ocr import MISTRAL_MODEL, FieldRefused, OCRRequest
from phi_vision.serving.pictures import Pictures
from phi_vision.serving.request_body import json_body
from phi_vision.serving.routes.files import owner_of
from phi_vision.serving.vllm_compat.structured_outputs import SpecTrials
from phi_vision.tasks.presets import task_of

PAGES_AT_ONCE = 8  # of one request; the queue may hold others' pages between them

router = APIRouter()


@dataclass
class OcrService:
    """What the route needs beside the chat's service.

    Args:
        pictures: where files are opened and drawn.
        crop_policy: how many crops a page gets.
        trials: of the schemas of annotations.
        max_pages: of one request.
        slots: for the pages of all requests that are read at once.
    """

    pictures: Pictures
    crop_policy: CropPolicy
    trials: SpecTrials
    max_pages: int
    slots: asyncio.Semaphore


@dataclass(frozen=True)
class _FilePage:
    """A page of an opened file, as `read_page` draws it."""

    pictures: Pictures
    file: MediaFile
    page: int
    share: DecodeShare
    param: str

    async def canvas(self, view: PageView, num_crops: int) -> Canvas:
        view = replace(view, page=self.page)
        return await self.pictures.canvas(self.file, view, CropLimit(num_crops), self.share, self.param)


async def _parsed(raw_request: Request) -> OCRRequest:
    body = await json_body(raw_request)
    request = mistral_ocr.parse(body)
    body.clear()  # it may hold the document, which the request gives away once it is opened
    return request


@router.post(
    OCR,
    dependencies=[Depends(validate_json_request)],
    response_model=None,  # responses come ready-made
    openapi_extra=openapi.body_of(OCRRequest),
)
@with_cancellation
@load_aware_call
async def read_document(
    request: Annotated[OCRRequest, Depends(_parsed)], raw_request: Request
) -> JSONResponse | None:
    """The text of each page, with what is known about it; None where the client has gone."""
    request_counts.note(task="ocr")
    state = raw_request.app.state
    service: OcrService = state.phi_vision_ocr
    _check_model(request.model, state.args.served_model_name)
    if request.document_annotation_format is not None:
        await annotation.check_schema(request.document_annotation_format, service.trials)

    file = await _open(request, raw_request, service.pictures)
    num_pages = await service.pictures.count_pages(file, service.pictures.share(), request.where)
    numbers = mistral_ocr.select_pages(request.pages, num_pages, service.max_pages)
    ask = EngineAsk(raw_request)
    pages = await _read(file, numbers, request, service, ask)

    answer = {
        "pages": [mistral_ocr.page_object(page, request.confidence_scores_granularity) for page in pages],
        "model": state.args.served_model_name[0],
        "usage_info": {
            "pages_processed": sum(page.status != "failed" for page in pages),
            "doc_size_bytes": len(file.data),
        },
    }
    if request.document_annotation_format is not None:
        answer["document_annotation"] = await annotation.annotate(
            [page.markdown for page in pages],
            request.document_annotation_format,
            request.document_annotation_prompt,
            ask,
            service.trials,
        )
    return JSONResponse(answer)


def _check_model(model: str | None, served_names: Iterable[str]) -> None:
    names = [name for name in served_names if task_of(name) in (None, "ocr")]
    if model is not None and model != MISTRAL_MODEL and model not in names:
        if model in served_names:
            raise FieldRefused(f"{model!r} is no name for reading documents; {names[0]!r} is", param="model")
        known = ", ".join(sorted([*names, MISTRAL_MODEL]))
        raise RequestError(
            f"the model {model[:200]!r} does not exist; served here: {known}", param="model", status=404
        )


async def _open(request: OCRRequest, raw_request: Request, pictures: Pictures) -> MediaFile:
    if request.document.type == "file":
        await pictures.wait_for_capacity()
        return await pictures.read_upload(request.document.file_id, owner_of(raw_request), request.where)
    url = request.url
    request.forget_url()
    return await pictures.open(url, request.where)


async def _read(
    file: MediaFile, numbers: list[int], request: OCRRequest, service: OcrService, ask: EngineAsk
) -> list[PageResult]:
    """The pages side by side, in the order asked for. One that fails does not lose the others.

    Raises:
        RequestError: all of them failed; why the first did.
    """
    options = ReadOptions(
        tiles=request.tiles,
        num_crops=service.crop_policy.limit(1, "high").most,
        retries=request.retries,
        fixed=frozenset() if request.tiles == "auto" else frozenset({"tiles"}),
    )
    own_slots = asyncio.Semaphore(PAGES_AT_ONCE)

    async def read(number: int) -> PageResult | RequestError:
        async with own_slots, service.slots:
            page = _FilePage(service.pictures, file, number, service.pictures.share(), request.where)
            try:
                return await read_page(page, ask, options, number)
            except RequestError as error:
                return error

    results = await side_by_side([read(number) for number in numbers])
    for result in results:
        metrics.PAGES.labels("failed" if isinstance(result, RequestError) else result.status).inc()
    errors = [result for result in results if isinstance(result, RequestError)]
    if len(errors) == len(results):
        errors[0].param = errors[0].param or request.where
        raise errors[0]
    return [
        _failed(number, result) if isinstance(result, RequestError) else result
        for number, result in zip(numbers, results, strict=True)
    ]


def _failed(number: int, error: RequestError) -> PageResult:
    return PageResult(
        index=number,
        markdown="",
        raw_text="",
        status="failed",
        attempts=(),
        rotation=0,
        tiles=0,
        width=0,
        height=0,
        dpi=None,
        error=str(error),
    )
