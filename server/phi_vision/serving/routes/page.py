"""The web page: `GET /` and its files. What it asks goes to the routes that all clients use."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from phi_vision import page
from phi_vision.page import PageFile

router = APIRouter(include_in_schema=False)


def _answer(file: PageFile, request: Request) -> Response:
    headers = {**page.HEADERS, "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@router.api_route("/", methods=["GET", "HEAD"])
async def show_page(request: Request) -> Response:
    """The page."""
    return _answer(page.files()["/"], request)


@router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
async def show_file(path: str, request: Request) -> Response:
    """A file that it consists of."""
    file = page.files().get(f"/page/{path}")
    return Response(status_code=404) if file is None else _answer(file, request)
