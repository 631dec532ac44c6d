"""The lines of an input file: all are checked before the first runs, and each is read again in its turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, get_args

from phi_vision.batch.work import NOT_IN_LINES, Item
from phi_vision.errors import RequestError
from phi_vision.serving.files import FileStore
from phi_vision.serving.middleware.body import parse_object

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/ocr"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

MAX_ERRORS = 100  # that are told of one file
MAX_ID_CHARS = 512


class InputLines:
    """Reads the lines as items; memory holds one line at a time. `errors` has then what is wrong with them.

    An item's request is where its line begins in the file, and how many bytes it has.

    Args:
        opened: the file, at its first line.
        endpoint: the path that all lines must name.
        max_lines: in the file.
        max_line_bytes: of one line.
    """

    def __init__(self, opened: IO[bytes], endpoint: str, max_lines: int, max_line_bytes: int) -> None:
        self.errors: list[dict[str, Any]] = []  # OpenAI's `code`, `message`, `param` and `line`
        self._opened = opened
        self._endpoint = endpoint
        self._max_lines = max_lines
        self._max_line_bytes = max_line_bytes

    def __iter__(self) -> Iterator[Item]:
        seen: set[bytes] = set()  # digests
        number = lines = 0
        while len(self.errors) < MAX_ERRORS:
            at = self._opened.tell()
            line = self._opened.readline(self._max_line_bytes + 1)
            number += 1
            if not line:
                break
            if not line.strip():
                continue
            lines += 1
            if lines > self._max_lines:
                self._refuse(
                    "too_many_requests", f"the file has more than {self._max_lines} requests", None, None
                )
                break
            if len(line) > self._max_line_bytes:
                size = f"{self._max_line_bytes / 1e6:g} MB"
                self._refuse("line_too_large", f"the line is larger than {size}", None, number)
                break
            custom_id = self._check(line, number)
            if custom_id is None:
                continue
            digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
            if digest in seen:
                self._refuse(
                    "duplicate_custom_id", f"{custom_id!r} names another line too", "custom_id", number
                )
                continue
            seen.add(digest)
            if not self.errors:
                yield Item(custom_id, {"at": at, "bytes": len(line)})
        if not lines:
            self._refuse("empty_file", "the file has no requests", None, None)

    def _check(self, line: bytes, number: int) -> str | None:
        """The id of a line; None, and an error noted, if the line cannot be run."""
        try:
            request = parse_object(line)
        except RequestError as error:
            self._refuse("invalid_json_line", f"the line cannot be read: {error}", None, number)
            return None
        custom_id, body = request.get("custom_id"), request.get("body")
        for name in ("custom_id", "method", "url", "body"):
            if name not in request:
                self._refuse("missing_required_parameter", f"{name} is missing", name, number)
                return None
        if not _is_id(custom_id):
            message = f"custom_id is a text of 1 to {MAX_ID_CHARS} characters"
            self._refuse("invalid_custom_id", message, "custom_id", number)
        elif request["method"] != "POST":
            self._refuse("invalid_method", "the method is POST", "method", number)
        elif request["url"] != self._endpoint:
            self._refuse(
                "invalid_url", f"the url is {self._endpoint}, as the batch's endpoint", "url", number
            )
        elif not isinstance(body, dict):
            self._refuse("invalid_body", "the body is a JSON object", "body", number)
        elif later := [name for name in NOT_IN_LINES if body.get(name)]:
            message = f"{later[0]!r} cannot be had in a batch: each line is answered once"
            self._refuse("invalid_body", message, f"body.{later[0]}", number)
        else:
            return str(custom_id)
        return None

    def _refuse(self, code: str, message: str, param: str | None, line: int | None) -> None:
        self.errors.append({"code": code, "message": message, "param": param, "line": line})


def _is_id(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def line_id(batch_id: str, item: Item) -> str:
    """What a line is called in the output files and, as the id of its request, in the server's log."""
    return "batch_req_" + hashlib.sha256(f"{batch_id} {item.key}".encode()).hexdigest()[:32]


def read_body(path: Path, item: Item) -> dict[str, Any]:
    """The body of an item's line, from the input file that the batch holds."""
    with FileStore.open_held(path) as opened:
        opened.seek(item.request["at"])
        body: dict[str, Any] = parse_object(opened.read(item.request["bytes"]))["body"]
    return body
