"""Exchanges with a server that may be anybody's: whom to ask, and answers checked before they are used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx

from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError

CONNECT_TIMEOUT_S = 10.0
NUMBER = re.compile(r"[0-9]{1,7}")


class ApiKeyRequired(UsageError):
    """The server asks for a key, but the user has not named it, so it gets none."""


class Unreachable(UsageError):
    """No server is there."""


@dataclass(frozen=True)
class Endpoint:
    """A server to ask.

    Args:
        base_url: with its `/v1`.
        key: sent as `Authorization`; give it only to whom the user has named.
        named: by the user; only then do proxies of the environment count.
    """

    base_url: str
    key: str | None = None
    named: bool = False

    def url(self, path: str) -> str:
        """Of a route: `path` follows the `/v1`."""
        return self.base_url.rstrip("/") + path

    @property
    def headers(self) -> dict[str, str]:
        """Of each request to it.

        Raises:
            UsageError: the key cannot be sent.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "phi-vision"}
        if self.key:
            if not (self.key.isascii() and self.key.isprintable()):
                raise UsageError("the API key has characters that cannot be sent in a header")
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def no_address(self) -> UsageError:
        """It is none that can be asked."""
        return UsageError(f"{one_line(self.base_url)} is not an http or https address")

    def refusal(self, response: httpx.Response, message: str) -> PhiVisionError:
        """What a response other than 200 means for the user.

        Args:
            response: its status and headers.
            message: what its body says.
        """
        status = response.status_code
        if response.has_redirect_location:
            target = one_line(response.headers["location"])
            return UsageError(f"the server at {one_line(self.base_url)} redirects to {target}; name that one")
        if status == 401 and self.key is None and not self.named:
            return ApiKeyRequired(
                f"the server at {self.base_url} asks for a key; name it with --base-url, "
                "then $OPENAI_API_KEY is sent to it"
            )
        if status == 401:
            return UsageError(f"the server at {one_line(self.base_url)} does not take the key: {message}")
        if 400 <= status < 500:
            return UsageError(f"the server refused: {message}")
        return PhiVisionError(f"the server failed: {message}")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server may be asked again, at least 1; None where it names none.

    Args:
        headers: of its response, which are found in any case.
    """
    header = headers.get("retry-after", "")
    if NUMBER.fullmatch(header):
        return max(1.0, float(header))
    try:
        at = parsedate_to_datetime(header)
        return max(1.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def check_encoding(response: httpx.Response) -> None:
    """Refuse what would grow when it is unpacked."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        not_understood("it is compressed, which was not asked for")


def error_object(body: bytes) -> dict[str, Any] | None:
    """The JSON of a response that is not 200; None where it is none."""
    try:
        return json_object(body)
    except PhiVisionError:
        return None


def error_message(response: httpx.Response, body: bytes) -> str:
    """What the body of a response that is not 200 says, on one line."""
    said = error_object(body)
    return f"HTTP status {response.status_code}" if said is None else message_of(said)


def lacks_route(status: int, said: Mapping[str, Any] | None) -> bool:
    """Whether an error means that the server has no such route: if it names a field, the route is there."""
    error = (said or {}).get("error")
    names_a_field = isinstance(error, dict) and error.get("param") is not None
    return status == 405 or (status == 404 and not names_a_field)


def message_of(body: dict[str, Any]) -> str:
    """An error's message in OpenAI's shape, or in vLLM's older ones."""
    error = body.get("error", body)
    message = error.get("message") if isinstance(error, dict) else error
    return one_line(message) if isinstance(message, str) and message.strip() else "it does not say why"


def model_names(body: dict[str, Any]) -> list[str]:
    """What `GET /v1/models` has answered: the names that the server goes by."""
    return [field(model, "id", str) for model in field(body, "data", list)]


def tasks(body: dict[str, Any]) -> dict[str, str]:
    """What `GET /v1/tasks` has answered: a model name for each task."""
    try:
        return {
            field(task, "id", str): str(field(task, "models", list)[0]) for task in field(body, "data", list)
        }
    except IndexError:
        not_understood("a task has no model")


def tasks_in(names: Sequence[str]) -> dict[str, str]:
    """A model name for each task, from names such as `MODEL:TASK`; the first one counts."""
    return {name.rpartition(":")[2]: name for name in reversed(names) if ":" in name}


def model_for(task: str, tasks: Mapping[str, str], endpoint: Endpoint) -> str:
    """The name under which the server does this task.

    Raises:
        UsageError: it does not.
    """
    if task not in tasks:
        known = one_line(", ".join(tasks)) or "none"
        raise UsageError(f"the server at {endpoint.base_url} does not do the task {task}; its tasks: {known}")
    return tasks[task]


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object that a server has sent.

    Raises:
        PhiVisionError: it is none.
    """
    try:
        value = json.loads(text, parse_constant=lambda name: not_understood(f"{name} is not JSON"))
    except (ValueError, RecursionError):
        not_understood("it is not JSON")
    if not isinstance(value, dict):
        not_understood("it is not an object")
    return value


def field(holder: Any, name: str, *kinds: type) -> Any:
    """A field of an answer.

    Raises:
        PhiVisionError: it is missing or of another type; NoneType stands for a field that may be missing.
    """
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kinds):
        not_understood(f"{name!r} is missing or of a wrong type")
    return value


def not_understood(reason: str) -> NoReturn:
    """Give up on an answer."""
    raise PhiVisionError(f"the server's answer is not understood: {reason}")
