"""Batches on disk, beside the uploaded files: each seen only with the key that made it.

A batch is the folder `FILES/batches/OWNER/ID` with `batch.json`, which tells how it stands. Until it has
ended there are also `input`, the input file, which its owner may delete meanwhile, `queue.sqlite`, its lines
and what came of them, and, once it is to end early, `cancel`. Only the process that has the queue open writes
`batch.json`. All API processes share the folder, and it outlives the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving.files import FileStore
from phi_vision.serving.ids import HEX

MAX_KEPT = 10_000  # of all owners, those that have ended included
WINDOW_S = 24 * 3600

Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
ENDED: tuple[Status, ...] = ("completed", "failed", "expired", "cancelled")

_PREFIX = "batch_"
_ID = re.compile(_PREFIX + HEX)
_STATE = "batch.json"
_INPUT = "input"
_CANCEL = "cancel"
_DRAFT = "draft-"
_DRAFT_LIFE_S = 600


@dataclass(frozen=True)
class Batch:
    """How a batch stands. Times are seconds since 1970, null until then.

    Args:
        id: that clients name it by.
        owner: who made it, as `FileStore.owner` names the key.
        endpoint: the path of the route that its lines are for.
        input_file_id: of the uploaded file.
        output_age_s: how long its output files are kept.
        metadata: as the client gave it.
        errors: why it failed, in OpenAI's shape.
        total: lines.
        completed: lines with a good answer.
        failed: lines that were refused or have failed.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    output_age_s: int
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in ENDED

    @property
    def ended_at(self) -> int | None:
        """When it ended."""
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at

    def describe(self) -> dict[str, Any]:
        """As OpenAI's clients expect it."""
        own = ("owner", "output_age_s", "errors", "total", "completed", "failed")
        shown = {name: value for name, value in asdict(self).items() if name not in own}
        counts = {"total": self.total, "completed": self.completed, "failed": self.failed}
        errors = None if self.errors is None else {"object": "list", "data": self.errors}
        return shown | {
            "object": "batch",
            "completion_window": f"{WINDOW_S // 3600}h",
            "errors": errors,
            "request_counts": counts,
        }


class BatchStore:
    """The folder of batches. Its methods may block for as long as the disk does.

    Args:
        files: the uploads; where their folder cannot be used, each method raises a 503.
        limits: how many batches there may be, and how long they are kept.
        clock: seconds since 1970.
    """

    def __init__(self, files: FileStore, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._folder = files.batches_folder
        self._max_batches = limits.max_batches
        self._max_age_s = limits.max_file_age_s
        self._clock = clock
        self._done_with: set[str] = set()  # ids of batches that `unended` need not read again

    def add(
        self,
        owner: str,
        *,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None = None,
        output_age_s: int,
    ) -> Batch:
        """A new batch of an uploaded file.

        Raises:
            RequestError: 404, 421: there is no such file; 429: the owner has too many batches; 503: no room.
        """
        now = int(self._clock())
        batch = Batch(
            id=self._files.ids.new(_PREFIX),
            owner=owner,
            endpoint=endpoint,
            input_file_id=input_file_id,
            created_at=now,
            expires_at=now + WINDOW_S,
            output_age_s=output_age_s,
            metadata=metadata,
        )
        with self._files.usable():
            folder = self.folder(batch)
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = folder.with_name(_DRAFT + batch.id)
            draft.mkdir(mode=0o700)
            try:
                file = self._files.hold(input_file_id, owner, draft / _INPUT)
                if file.purpose != "batch":
                    raise RequestError(f"the purpose of the file is {file.purpose!r}, not 'batch'")
                _write(draft, batch)
                with self._files.locked():
                    self._check_room(owner)
                    draft.rename(folder)
            except RequestError as error:
                if error.status in (400, 404, 421):
                    error.param = "input_file_id"
                raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # nothing where it was renamed
        return batch

    def get(self, batch_id: str, owner: str) -> Batch:
        """A batch; raises a 404 where this owner has none of that id, a 421 if it is of another folder."""
        with self._files.usable():
            if not _ID.fullmatch(batch_id):
                raise _missing(batch_id)
            try:
                return _read(self._folder / owner / batch_id)
            except FileNotFoundError:
                self._files.ids.check(batch_id)
                raise _missing(batch_id) from None

    def of_owner(self, owner: str) -> list[Batch]:
        """All batches of an owner, the newest first."""
        with self._files.usable():
            found = list(self._batches(owner))
        return sorted(found, key=lambda batch: (-batch.created_at, batch.id))

    def unended(self) -> list[Batch]:
        """The batches of all owners that have not ended, the oldest first; cheap enough for every second."""
        found, done_with = [], set()
        with self._files.usable():
            for owner in self._owners():
                for name in self._names(owner):
                    batch = None if name in self._done_with else self._read_if_there(owner, name)
                    if batch is None or batch.has_ended:
                        done_with.add(name)
                    else:
                        found.append(batch)
        self._done_with = done_with
        return sorted(found, key=lambda batch: (batch.created_at, batch.id))

    def write(self, batch: Batch) -> None:
        """Keep how a batch stands; it survives a power cut. Only by the process that has its queue open."""
        with self._files.usable():
            _write(self.folder(batch), batch)

    def folder(self, batch: Batch) -> Path:
        """Where a batch lies."""
        return self._folder / batch.owner / batch.id

    def input_path(self, batch: Batch) -> Path:
        """The input file of a batch that has not ended, for `FileStore.open_held`."""
        return self.folder(batch) / _INPUT

    def cancel(self, batch_id: str, owner: str) -> Batch:
        """Have a batch end early, whichever process runs it.

        Raises:
            RequestError: as `get`; 409: it has ended.
        """
        batch = self.get(batch_id, owner)
        if batch.has_ended:
            raise RequestError(f"the batch is {batch.status}; there is nothing to cancel", status=409)
        with self._files.usable():
            mark = self.folder(batch) / _CANCEL
            if not mark.exists():
                mark.touch(mode=0o600)
                os.utime(mark, (self._clock(), self._clock()))
        return self.get(batch_id, owner)

    def cancelling_at(self, batch: Batch) -> int | None:
        """When its owner cancelled it."""
        return _cancelling_at(self.folder(batch))

    def sweep(self) -> None:
        """Delete what is no longer needed: all but the state of batches that have ended, and old batches.

        A batch is kept as long as its output files may be. So is one that nobody runs, as its key is gone.
        """
        with self._files.usable():
            for owner in self._owners():
                for draft in (self._folder / owner).glob(f"{_DRAFT}*"):
                    with contextlib.suppress(FileNotFoundError):  # it was kept just now
                        if draft.stat().st_mtime + _DRAFT_LIFE_S <= time.time():
                            shutil.rmtree(draft, ignore_errors=True)
                for batch in self._batches(owner):
                    if (batch.ended_at or batch.expires_at) + self._max_age_s <= self._clock():
                        shutil.rmtree(self.folder(batch), ignore_errors=True)
                    elif batch.has_ended:
                        self.clean(batch)

    def clean(self, batch: Batch) -> None:
        """Delete all of a batch that has ended but its state."""
        with self._files.usable():
            for path in self.folder(batch).iterdir():
                if path.name != _STATE:
                    path.unlink(missing_ok=True)

    def _check_room(self, owner: str) -> None:
        kept = sum(len(os.listdir(self._folder / each)) for each in self._owners())
        if kept > MAX_KEPT:  # the draft counts
            raise RequestError(f"there is no room: {MAX_KEPT} batches are kept; try again later", status=503)
        running = sum(not batch.has_ended for batch in self.of_owner(owner))
        if running >= self._max_batches:
            raise RequestError(
                f"{running} of your batches have not ended, which is the limit; wait for one, or cancel one",
                status=429,
                retry_after_s=60,
            )

    def _owners(self) -> list[str]:
        return os.listdir(self._folder) if self._folder.exists() else []

    def _names(self, owner: str) -> list[str]:
        folder = self._folder / owner
        return [name for name in os.listdir(folder) if _ID.fullmatch(name)] if folder.exists() else []

    def _batches(self, owner: str) -> Iterator[Batch]:
        for name in self._names(owner):
            if (batch := self._read_if_there(owner, name)) is not None:
                yield batch

    def _read_if_there(self, owner: str, name: str) -> Batch | None:
        with contextlib.suppress(FileNotFoundError):  # deleted just now
            return _read(self._folder / owner / name)
        return None


def _read(folder: Path) -> Batch:
    """Raises FileNotFoundError where there is no batch, or none that this version can read."""
    try:
        batch = Batch(**json.loads((folder / _STATE).read_bytes()))
    except (ValueError, TypeError) as error:
        raise FileNotFoundError(f"{folder} is no batch of this version") from error
    if not batch.has_ended and (cancelling_at := _cancelling_at(folder)):
        return replace(batch, status="cancelling", cancelling_at=cancelling_at)
    return batch


def _cancelling_at(folder: Path) -> int | None:
    try:
        return int((folder / _CANCEL).stat().st_mtime)
    except FileNotFoundError:
        return None


def _write(folder: Path, batch: Batch) -> None:
    draft = folder / f"{_STATE}.new"
    with draft.open("w") as opened:
        json.dump(asdict(batch), opened)
        opened.flush()
        os.fsync(opened.fileno())
    draft.rename(folder / _STATE)


def _missing(batch_id: str) -> RequestError:
    return RequestError(f"there is no batch {batch_id[:100]!r}", status=404)
