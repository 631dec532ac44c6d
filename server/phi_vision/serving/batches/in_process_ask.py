"""Asks for one line of a batch: through the whole application, as its owner would, once there is room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from phi_vision.batch.work import Item, ItemError, TryLater
from phi_vision.client.exchange import retry_after_s
from phi_vision.errors import PhiVisionError
from phi_vision.serving.batch_places import BatchPlaces
from phi_vision.serving.batches import in_process
from phi_vision.serving.batches.in_process import Answer
from phi_vision.serving.batches.lines import line_id, read_body
from phi_vision.serving.middleware.body_reader import PRIORITY

_RETRY_S = 2.0  # where the server does not say
_CHECK_ROOM_BYTES = 10_000_000  # of answers, until it is looked again whether there is room for more
_NO_ROOM_WAIT_S = 60.0
_PRIORITY = 1_000_000  # with vLLM's priority scheduling: behind every request of a client


@dataclass
class InProcessAsk:
    """`batch.work.Ask` for the lines of one batch.

    Args:
        app: the application.
        batch_id: of the batch.
        endpoint: the path that the lines are for.
        input_path: the file that they stand in.
        owner: whose turn it is.
        key: the API key of the owner; empty where none is asked for.
        places: where room for a line comes from.
        size: how many places a line takes.
        has_room: whether more answers can be kept; looks at the disk.
        is_alive: whether the engine is.
    """

    app: ASGIApp
    batch_id: str
    endpoint: str
    input_path: Path
    owner: str
    key: str
    places: BatchPlaces
    size: int
    has_room: Callable[[], bool]
    is_alive: Callable[[], bool]

    def __post_init__(self) -> None:
        self._unchecked_bytes = _CHECK_ROOM_BYTES

    async def __call__(self, item: Item) -> dict[str, Any]:
        """The result of a line: `status_code` and `body`.

        Raises:
            TryLater: it cannot be asked now.
            ItemError: it was refused, or failed.
        """
        async with self.places.take(self.owner, self.size):
            if self._unchecked_bytes >= _CHECK_ROOM_BYTES:
                if not await asyncio.to_thread(self.has_room):
                    raise TryLater("there is no room for answers", _NO_ROOM_WAIT_S)
                self._unchecked_bytes = 0
            body, headers = await asyncio.to_thread(self._request, item)
            answer = await in_process.post(self.app, self.endpoint, body, headers)
        self._unchecked_bytes += len(answer.body)
        return self._result(answer)

    def _request(self, item: Item) -> tuple[bytes, Mapping[str, str]]:
        try:
            body = read_body(self.input_path, item)
        except OSError as error:
            raise PhiVisionError(f"the input file cannot be read: {error.strerror}") from error
        own = body.get("priority")
        headers = {
            "x-request-id": line_id(self.batch_id, item),
            PRIORITY: str(_PRIORITY + (own if isinstance(own, int) else 0)),
            **({"authorization": f"Bearer {self.key}"} if self.key else {}),
        }
        return json.dumps(body).encode(), headers

    def _result(self, answer: Answer) -> dict[str, Any]:
        body = _json_object(answer.body)
        error = body.get("error")
        message = str(error.get("message")) if isinstance(error, dict) else f"HTTP status {answer.status}"
        if 200 <= answer.status < 300:
            return {"status_code": answer.status, "body": body}
        if answer.status in (429, 502, 503, 504) or not self.is_alive():
            wait_s = retry_after_s(answer.headers) or _RETRY_S
            raise TryLater(message, wait_s, is_overload=answer.status == 429)
        refused = answer.status < 500
        raise ItemError(
            message,
            cause="refused" if refused else "server",
            status=answer.status,
            is_final=refused,
            body=body,
        )


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"error": {"message": text.decode(errors="replace")[:1000]}}
