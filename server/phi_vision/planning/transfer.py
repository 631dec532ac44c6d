"""Files of a repository over HTTP: several at a time, each resumed where it broke off, and checked."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from phi_vision.errors import UsageError
from phi_vision.planning.hub import HubRefusal, HubUnavailable, explained
from phi_vision.planning.weights_cache import hasher

Sleep = Callable[[float], Awaitable[None]]

GO_ON = "run the same command again to go on where it was"

_FILES_AT_ONCE = 4
_STALL_S = 30.0  # without a byte
_MAX_FAILURES = 6  # in a row, with nothing coming between them; their pauses double from a second
_OTHER_START_S = 1.0  # between two looks at a file that another start is downloading
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """A file that is to come.

    Args:
        name: in the repository.
        size_bytes: of the whole.
        digest: of its content, as `weights_cache.Listed` has it.
        blob: where the cache keeps the content.
    """

    name: str
    size_bytes: int
    digest: str
    blob: Path

    @property
    def incomplete(self) -> Path:
        """What has come of it so far."""
        return self.blob.with_name(f"{self.digest}.incomplete")

    @property
    def present_bytes(self) -> int:
        """How much of it is here."""
        return _size(self.blob) or _size(self.incomplete)


class _WrongContent(Exception):
    """What has come is not the file that the hub lists."""


class Transfer:
    """Several files at a time.

    Args:
        hub_id: the repository.
        commit: of the repository.
        on_progress: called with the number of bytes that are here.
        sleep: waits for seconds.
    """

    def __init__(
        self, hub_id: str, commit: str, on_progress: Callable[[int], None], sleep: Sleep = asyncio.sleep
    ) -> None:
        self._hub_id = hub_id
        self._commit = commit
        self._sleep = sleep
        self._on_progress = on_progress
        self._done_bytes: dict[str, int] = {}  # by digest
        self._places = asyncio.Semaphore(_FILES_AT_ONCE)

    async def run(self, parts: Sequence[Part]) -> None:
        """Return once all are whole.

        Raises:
            UsageError: the hub does not give one of them, or not now.
            OSError: the disk does not take it.
        """
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented

        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        self._done_bytes = {part.digest: part.present_bytes for part in parts}
        self._on_progress(sum(self._done_bytes.values()))
        async with httpx.AsyncClient(headers=headers, timeout=_STALL_S, follow_redirects=True) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        group.create_task(self._fetch(client, part))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _fetch(self, client: httpx.AsyncClient, part: Part) -> None:
        async with self._places:
            try:
                try:
                    await self._fetch_once(client, part)
                except _WrongContent:
                    await self._fetch_once(client, part)
            except _WrongContent as error:
                raise UsageError(
                    f"cannot download {self._hub_id}: what the hub gives for {part.name} is not the file "
                    f"that it lists ({error}), twice; try another time, or another HF_ENDPOINT"
                ) from error
            except HubRefusal as error:
                raise UsageError(f"cannot download {self._hub_id}: {error}") from error
            except HubUnavailable as error:
                raise UsageError(f"the download of {self._hub_id} broke off: {error}; {GO_ON}") from error

    async def _fetch_once(self, client: httpx.AsyncClient, part: Part) -> None:
        """Go on with a file until it is whole; one that is not what it should be is deleted."""
        while not part.blob.exists():
            with part.incomplete.open("ab") as opened:
                if not _lock(opened):  # another start is at it
                    self._report(part, _size(part.incomplete))
                    await self._sleep(_OTHER_START_S)
                    continue
                if part.blob.exists():  # another start has just finished it
                    part.incomplete.unlink(missing_ok=True)
                    break
                if os.fstat(opened.fileno()).st_nlink == 0:  # or has deleted it
                    continue
                try:
                    await self._complete(client, part, opened)
                except _WrongContent:
                    part.incomplete.unlink()
                    self._report(part, 0)
                    raise
                await asyncio.to_thread(os.fsync, opened.fileno())
                part.incomplete.rename(part.blob)
        self._report(part, part.size_bytes)

    async def _complete(self, client: httpx.AsyncClient, part: Part, opened: IO[bytes]) -> None:
        """Append what is missing, and check the whole."""
        digest = hasher(part.digest, part.size_bytes)
        await asyncio.to_thread(_absorb, part.incomplete, digest.update)
        failures = 0
        while (present_bytes := _size(part.incomplete)) < part.size_bytes:
            try:
                async for chunk in self._stream(client, part, present_bytes):
                    opened.write(chunk)
                    opened.flush()  # what has come outlives this process
                    digest.update(chunk)
                    failures = 0
                    self._report(part, opened.tell())
            except (httpx.HTTPError, HubUnavailable) as error:
                failures += 1
                if failures > _MAX_FAILURES:
                    raise explained(error, self._hub_id) from error
                await self._sleep(2.0 ** (failures - 1))
        if digest.hexdigest() != part.digest:
            raise _WrongContent("its digest is another")

    async def _stream(
        self, client: httpx.AsyncClient, part: Part, present_bytes: int
    ) -> AsyncIterator[bytes]:
        """What comes of a file after those bytes.

        Raises:
            HubUnavailable, httpx.HTTPError: it broke off, or did not begin.
            _WrongContent: it has another size.
        """
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self._hub_id, part.name, revision=self._commit)
        headers = {"Range": f"bytes={present_bytes}-"} if present_bytes else {}
        async with client.stream("GET", url, headers=headers) as answer:
            _check_status(answer, part)
            # Where the range is not obeyed, the file comes from its beginning.
            skip_bytes = present_bytes if answer.status_code == 200 else 0
            size_bytes = _announced_size(answer)
            if size_bytes not in (None, part.size_bytes):
                raise _WrongContent(f"{size_bytes} bytes instead of {part.size_bytes}")
            come_bytes = present_bytes - skip_bytes
            async for chunk in answer.aiter_raw():
                come_bytes += len(chunk)
                if come_bytes > part.size_bytes:
                    raise _WrongContent(f"more than {part.size_bytes} bytes")
                if len(chunk) > skip_bytes:
                    yield chunk[skip_bytes:]
                skip_bytes = max(0, skip_bytes - len(chunk))
            if come_bytes < part.size_bytes:
                raise HubUnavailable("the hub sends less than it should")

    def _report(self, part: Part, done_bytes: int) -> None:
        self._done_bytes[part.digest] = done_bytes
        self._on_progress(sum(self._done_bytes.values()))


def _check_status(answer: httpx.Response, part: Part) -> None:
    """Raise what an answer without the file means; see `Transfer._stream`."""
    status = answer.status_code
    if status in (200, 206):
        return
    if status == 416:
        raise _WrongContent("it is shorter")
    if status >= 500 or status in (408, 429):
        raise HubUnavailable(f"the hub answers with an error ({status})")
    remedy = "; check HF_TOKEN" if status in (401, 403) else ""
    raise HubRefusal(f"the hub lists {part.name}, but does not give it ({status}){remedy}")


def _announced_size(answer: httpx.Response) -> int | None:
    """Of the whole file."""
    if answer.status_code == 206:
        text = answer.headers.get("content-range", "").rpartition("/")[2]
    else:
        text = answer.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


def _lock(opened: IO[bytes]) -> bool:
    """Whether nobody else has the file; where the file system has no locks, nobody is assumed to."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _absorb(file: Path, take: Callable[[bytes], None]) -> None:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            take(chunk)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # or another start has just renamed it
        return 0
