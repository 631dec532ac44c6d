"""What routes and middleware have in common."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from phi_vision.errors import RequestError

SAFE_METHODS = (
    "GET",
    "HEAD",
    "OPTIONS",
)  # they change nothing and ask nothing of the model (RFC 9110, 9.2.1)


def error_response(error: RequestError) -> JSONResponse:
    """The error as OpenAI's clients expect it."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())
