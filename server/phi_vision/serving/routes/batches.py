"""`/v1/batches`: many requests in one file, as with OpenAI's SDK. A batch of another key is a 404."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving import openapi
from phi_vision.serving.batches.lines import Endpoint
from phi_vision.serving.batches.runs import BatchRuns
from phi_vision.serving.batches.store import BatchStore
from phi_vision.serving.request_body import json_body, validated
from phi_vision.serving.routes.files import owner_of

router = APIRouter()

_PATH = "/v1/batches"
_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]


class _ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=1)


class BatchRequest(BaseModel):
    """OpenAI's fields."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: dict[_Key, _Value] | None = Field(None, max_length=16)
    output_expires_after: _ExpiresAfter | None = None


class _ListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100)
    after: str | None = None


async def _parsed(body: Annotated[dict[str, Any], Depends(json_body)]) -> BatchRequest:
    return validated(BatchRequest, body)


@router.post(_PATH, openapi_extra=openapi.body_of(BatchRequest))
async def create_batch(
    batch_request: Annotated[BatchRequest, Depends(_parsed)], request: Request
) -> JSONResponse:
    """Check a file of requests and run them, while clients' own requests leave room."""
    batch = await asyncio.to_thread(
        _store(request).add,
        owner_of(request),
        endpoint=batch_request.endpoint,
        input_file_id=batch_request.input_file_id,
        metadata=batch_request.metadata,
        output_age_s=_age_s(batch_request.output_expires_after, request.app.state.phi_vision_limits),
    )
    runs: BatchRuns = request.app.state.phi_vision_batch_runs
    runs.start(batch)
    return JSONResponse(batch.describe())


@router.get(_PATH)
async def list_batches(request: Request, query: Annotated[_ListQuery, Query()]) -> JSONResponse:
    """The batches that this key has made, the newest first."""
    found = await asyncio.to_thread(_store(request).of_owner, owner_of(request))
    if query.after is not None:
        request.app.state.phi_vision_files.ids.check(query.after)
        ids = [batch.id for batch in found]
        found = found[ids.index(query.after) + 1 :] if query.after in ids else []
    shown = [batch.describe() for batch in found[: query.limit]]
    answer = {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(found) > len(shown),
    }
    return JSONResponse(answer)


@router.get(_PATH + "/{batch_id}")
async def show_batch(request: Request, batch_id: str) -> JSONResponse:
    """How a batch stands."""
    batch = await asyncio.to_thread(_store(request).get, batch_id, owner_of(request))
    return JSONResponse(batch.describe())


@router.post(_PATH + "/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> JSONResponse:
    """End a batch early; what was answered so far is kept."""
    batch = await asyncio.to_thread(_store(request).cancel, batch_id, owner_of(request))
    return JSONResponse(batch.describe())


def _store(request: Request) -> BatchStore:
    store: BatchStore = request.app.state.phi_vision_batches
    return store


def _age_s(expires_after: _ExpiresAfter | None, limits: Limits) -> int:
    if expires_after is None:
        return limits.max_file_age_s
    if expires_after.seconds > limits.max_file_age_s:
        raise RequestError(
            f"files are kept for at most {limits.max_file_age_h:g} hours here", param="output_expires_after"
        )
    return expires_after.seconds
