"""`GET /livez` and `GET /readyz`, for supervisors and load balancers, without a key; `GET /v1/queue`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from phi_vision.serving.lifecycle import Lifecycle

router = APIRouter()


@router.get("/livez")
async def livez(request: Request) -> JSONResponse:
    """200 as long as a restart would not help; 503 when the engine is dead."""
    lifecycle: Lifecycle = request.app.state.phi_vision_lifecycle
    return _answer(None if lifecycle.alive else "the engine is dead")


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """200 when a request sent now would be taken; 503 with the reason otherwise."""
    lifecycle: Lifecycle = request.app.state.phi_vision_lifecycle
    return _answer(lifecycle.unready_reason())


@router.get("/v1/queue")
async def show_queue(request: Request) -> JSONResponse:
    """How many requests the server has, at work or waiting, and how many it takes at most."""
    lifecycle: Lifecycle = request.app.state.phi_vision_lifecycle
    return JSONResponse({"requests": lifecycle.num_requests, "max_requests": lifecycle.max_requests})


def _answer(reason: str | None) -> JSONResponse:
    return JSONResponse({"status": reason or "ok"}, status_code=503 if reason else 200)
