"""Our errors and the one place that renders each: a request's as HTTP, a command's as one line."""

from __future__ import annotations

from typing import Any


class PhiVisionError(Exception):
    """Base of the errors that users cause or can mend; the message says what to do."""


class RequestError(PhiVisionError):
    """A request that cannot be served, in OpenAI's terms.

    Args:
        message: what is wrong with it.
        param: the field at fault, for example `messages[0].content[1].image_url`.
        status: HTTP status, 4xx.
    """

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status

    def body(self) -> dict[str, Any]:
        """The JSON body in OpenAI's error shape; `code` repeats the status, as vLLM's errors do."""
        kind = "not_found_error" if self.status == 404 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.status}}


class UsageError(PhiVisionError):
    """A command that cannot run as asked: one line on stderr, exit code 2."""

    exit_code = 2
