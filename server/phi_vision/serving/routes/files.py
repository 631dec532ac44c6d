"""`/v1/files`: upload a file once and name it by its id, as with OpenAI's and Mistral's SDKs.

One answer satisfies both. A DELETE or GET of another key's file is a 404, as if it did not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, State, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving.files import PURPOSES, FileStore, StoredFile
from phi_vision.serving.middleware.body_reader import UPLOADS

router = APIRouter()
logger = logging.getLogger("vllm.phi_vision.files")

_FORM_BYTES = 100_000  # of an upload, beside the file itself
_MAX_FIELDS = 16
_FIELDS = ("file", "purpose", "expiry", "visibility", "expires_after[anchor]", "expires_after[seconds]")
_MAX_NAME_CHARS = 255
_CHUNK_BYTES = 1 << 18
_SWEEP_INTERVAL_S = 300


def keep_clean(state: State, store: FileStore) -> None:
    """Say what is wrong with the folder, or delete what expires as long as the server runs."""
    if store.reason:
        logger.warning("no files can be uploaded: %s", store.reason)
        return

    async def sweep() -> None:
        while True:
            with contextlib.suppress(RequestError):  # said to those who upload
                await asyncio.to_thread(store.sweep)
            await asyncio.sleep(_SWEEP_INTERVAL_S)

    state.phi_vision_sweeping = asyncio.create_task(sweep())


def owner_of(request: Request) -> str:
    """Whose uploaded files a request may use: those of its API key, where one is needed."""
    store: FileStore = request.app.state.phi_vision_files
    keyed = request.app.state.args.api_key
    return store.owner(request.headers.get("authorization", "").partition(" ")[2] if keyed else "")


def describe(file: StoredFile) -> dict[str, Any]:
    """The file as OpenAI's and Mistral's clients expect it."""
    return {
        **asdict(file),
        "object": "file",
        "status": "processed",
        "sample_type": "ocr_input",
        "source": "upload",
        "deleted": False,
    }


@router.post(UPLOADS)
async def upload(request: Request) -> JSONResponse:
    """Keep a file: multipart form data with `file` and `purpose`."""
    store, limits = _store(request), _limits(request)
    most = limits.max_file_bytes + _FORM_BYTES
    announced = request.headers.get("content-length", "")
    nbytes = min(int(announced), most) if announced.isdecimal() and len(announced) < 16 else most
    draft = await asyncio.to_thread(store.reserve, owner_of(request), nbytes)
    try:
        async with _form(request, most, limits.client_timeout_s) as form:
            unknown = [name for name in form if name not in _FIELDS]
            if unknown:
                raise RequestError(f"an upload has no field {unknown[0][:100]!r}", param=unknown[0][:100])
            sent = form.get("file")
            if not isinstance(sent, UploadFile):
                raise RequestError("an upload needs a file", param="file")
            if not sent.size:
                raise RequestError("the file is empty", param="file")
            if sent.size > limits.max_file_bytes:
                raise _too_large(limits.max_file_bytes)
            file = await asyncio.to_thread(
                store.keep,
                draft,
                sent.file,
                filename=(sent.filename or "file")[:_MAX_NAME_CHARS],
                purpose=_purpose(form.get("purpose")),
                age_s=_age_s(form, limits.max_file_age_s),
            )
    finally:
        draft.unlink(missing_ok=True)  # nothing where it was kept
    return JSONResponse(describe(file))


class _ListQuery(BaseModel):
    """OpenAI's `limit` and `after`, Mistral's `page` and `page_size`; both have `purpose`."""

    model_config = ConfigDict(extra="forbid")

    purpose: str | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: int = Field(10_000, ge=1, le=10_000)
    after: str | None = None
    page: int = Field(0, ge=0, le=10_000)
    page_size: int = Field(10_000, ge=1, le=10_000)
    include_total: bool = True
    search: str | None = None


@router.get(UPLOADS)
async def list_files(request: Request, query: Annotated[_ListQuery, Query()]) -> JSONResponse:
    """The files that this key has uploaded, the newest first."""
    found = await asyncio.to_thread(_store(request).list, owner_of(request))
    if query.order == "asc":
        found.reverse()
    found = [
        file
        for file in found
        if query.purpose in (None, file.purpose) and (query.search or "").lower() in file.filename.lower()
    ]
    total = len(found)
    if query.after is not None:
        _store(request).ids.check(query.after)
        ids = [file.id for file in found]
        found = found[ids.index(query.after) + 1 :] if query.after in ids else []
    found = found[query.page * query.page_size :]
    shown = found[: min(query.limit, query.page_size)]
    answer = {
        "object": "list",
        "data": [describe(file) for file in shown],
        "has_more": len(found) > len(shown),
    }
    return JSONResponse(answer | ({"total": total} if query.include_total else {}))


@router.get(UPLOADS + "/{file_id}")
async def show_file(request: Request, file_id: str) -> JSONResponse:
    """What is known of a file."""
    return JSONResponse(describe(await asyncio.to_thread(_store(request).get, file_id, owner_of(request))))


@router.delete(UPLOADS + "/{file_id}")
async def delete_file(request: Request, file_id: str) -> JSONResponse:
    """Delete a file."""
    await asyncio.to_thread(_store(request).delete, file_id, owner_of(request))
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


@router.get(UPLOADS + "/{file_id}/content")
async def download(request: Request, file_id: str) -> Response:
    """The bytes of a file."""
    return await _download(_store(request), file_id, owner_of(request))


@router.get(UPLOADS + "/{file_id}/url")
async def sign_url(
    request: Request, file_id: str, expiry: Annotated[int, Query(ge=1, le=168)] = 24
) -> JSONResponse:
    """A URL of the file that needs no key, for so many hours; no longer than the file itself is kept."""
    expires_at = int(time.time()) + expiry * 3600
    token = await asyncio.to_thread(_store(request).sign, file_id, owner_of(request), expires_at)
    return JSONResponse({"url": str(request.url_for("download_signed", token=token))})


@router.get("/files/{token}")
async def download_signed(request: Request, token: str) -> Response:
    """The bytes of the file that a signed URL stands for."""
    store = _store(request)
    signed = store.signed_token(token)
    if signed is None:
        store.ids.check(token.partition(".")[0])
        raise RequestError("there is no such file", status=404)
    return await _download(store, *signed)


async def _download(store: FileStore, file_id: str, owner: str) -> Response:
    opening = contextlib.ExitStack()
    file, opened = await asyncio.to_thread(opening.enter_context, store.open(file_id, owner))

    def chunks() -> Iterator[bytes]:
        with opening:
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk

    headers = {
        "Content-Length": str(file.bytes),
        # Never shown by a browser as a page of this server.
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(chunks(), media_type="application/octet-stream", headers=headers)


def _store(request: Request) -> FileStore:
    store: FileStore = request.app.state.phi_vision_files
    return store


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.phi_vision_limits
    return limits


@contextlib.asynccontextmanager
async def _form(request: Request, max_bytes: int, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
    """The form of a request, its file on disk."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError("an upload is sent as multipart/form-data", param="file")
    too_large = _too_large(_limits(request).max_file_bytes)
    body = _bounded(request.receive, max_bytes, too_large)
    parser = MultiPartParser(
        Headers(scope=request.scope), body, max_files=1, max_fields=_MAX_FIELDS, max_part_size=1000
    )
    try:
        async with asyncio.timeout(timeout_s):
            form = await parser.parse()
    except TimeoutError:
        raise RequestError(f"the body took longer than {timeout_s:g} s", status=408) from None
    except (MultiPartException, KeyError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"the form cannot be read: {error}", param="file") from error
    try:
        yield dict(form)
    finally:
        await form.close()


async def _bounded(receive: Receive, max_bytes: int, too_large: RequestError) -> AsyncGenerator[bytes, None]:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client has gone", status=400)
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        # Somewhat more is read and dropped: a client that is cut off while it sends may miss the answer.
        if size > 2 * max_bytes:
            raise _WithoutEnd(str(too_large), param=too_large.param, status=too_large.status)
        if size > max_bytes and not more:
            raise too_large
        if size <= max_bytes:
            yield chunk


class _WithoutEnd(RequestError):
    """A body that goes on; what still comes is not read."""

    def headers(self) -> dict[str, str]:
        """uvicorn then closes the connection."""
        return {**super().headers(), "Connection": "close"}


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(f"the file is larger than {max_bytes / 1e6:g} MB", param="file", status=413)


def _purpose(purpose: Any) -> str:
    if purpose not in (None, *PURPOSES):
        raise RequestError(
            f"purpose is one of {', '.join(PURPOSES)}; nothing is trained here", param="purpose"
        )
    return purpose or PURPOSES[0]


def _age_s(form: dict[str, Any], max_age_s: int) -> int:
    """Mistral's `expiry` in hours, or OpenAI's `expires_after`."""
    if form.get("expires_after[anchor]", "created_at") != "created_at":
        raise RequestError("the anchor is 'created_at'", param="expires_after")
    for name, unit_s in (("expires_after[seconds]", 1), ("expiry", 3600)):
        if (value := form.get(name)) is not None:
            asked_s = int(value) * unit_s if isinstance(value, str) and value.isdecimal() else 0
            if not 0 < asked_s <= max_age_s:
                raise RequestError(
                    f"files are kept for at most {max_age_s / 3600:g} hours here",
                    param=name.partition("[")[0],
                )
            return asked_s
    return max_age_s
