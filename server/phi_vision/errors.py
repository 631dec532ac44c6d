"""Our errors and the one place that renders each: a request's as HTTP, a command's as one line."""

from __future__ import annotations

from typing import Any


class PhiVisionError(Exception):
    """Base of our errors; the message says what to do. A command that ends with one has exit code 3."""

    exit_code = 3


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class RequestError(PhiVisionError, ValueError):
    """A request that cannot be served, in OpenAI's terms. A ValueError, which vLLM's routes answer with 400.

    Args:
        message: what is wrong with it.
        param: the field at fault, for example `messages[0].content[1].image_url`.
        status: HTTP status, 4xx; 503 while the server stops.
        retry_after_s: when the same request may be served.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(_encodable(message))
        self.param = None if param is None else _encodable(param)
        self.status = status
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON body in OpenAI's error shape, and with the outer `type` in Anthropic's.

        `code` repeats the status, as vLLM's errors do.
        """
        kind = _KINDS.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return {"type": "error", "error": error}

    def headers(self) -> dict[str, str]:
        """HTTP headers; clients wait as long as they are told."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def _encodable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can bring into a message and no answer can carry."""
    return text.encode(errors="backslashreplace").decode()


class UsageError(PhiVisionError):
    """A command that cannot run as asked: one line on stderr, exit code 2."""

    exit_code = 2
