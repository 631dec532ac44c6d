"""Uploaded files in a folder of bounded size: each of limited age, and seen only with the key that sent it.

A file is `FOLDER/OWNER/ID`: a line of JSON that describes it, then its bytes. It appears whole, by a rename.
Its modification time is the time at which it expires, so that neither the size of the folder nor what is too
old needs a look into files. All API processes share the folder, and it outlives the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving.ids import HEX, Ids

MAX_FILES = 10_000
PURPOSES = ("ocr", "user_data", "vision", "assistants", "batch")  # of uploads
BATCHES = "batches"  # the subfolder of `batches.store`; what lies there takes room too

_PREFIX = "file-"
_ID = re.compile(_PREFIX + HEX)
_TOKEN = re.compile(rf"({_ID.pattern})\.([0-9a-f]{{32}})\.(\d{{1,12}})\.([0-9a-f]{{64}})")
_SIGNED_URL = re.compile(rf"https?://[^?#]*/files/({_TOKEN.pattern})", re.IGNORECASE)
_MAX_URL_CHARS = 4096
_DRAFT = "draft-"
_DRAFT_LIFE_S = 7200  # longer than any upload may take; what a crash leaves is removed then


@dataclass(frozen=True)
class StoredFile:
    """What is known of an uploaded file.

    Args:
        id: that clients name it by.
        filename: as the client gave it; never the name of anything on this machine.
        purpose: one of `PURPOSES`, or `batch_output`.
        bytes: its size.
        created_at: seconds since 1970.
        expires_at: seconds since 1970.
    """

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int


class FileStore:
    """The folder of uploaded files. Its methods may block for as long as the disk does.

    A server whose folder cannot be used starts all the same, since only uploads need it. `reason` then says
    why, and each method raises that as a 503.

    Args:
        limits: where the folder is, how large it and its files may be, and how old files get.
    """

    ids: Ids  # of all that is kept in the folder

    def __init__(self, limits: Limits) -> None:
        self.reason: str | None = None
        self.batches_folder = limits.files_path / BATCHES
        self._folder = limits.files_path
        self._max_bytes = int(limits.max_files_mb * 1e6)
        self._secret = b""
        self.ids = Ids(b"")
        if self._max_bytes == 0:
            self.reason = "uploads are turned off here (--max-files-mb 0)"
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.locked():
                self._secret = _read_or_make_secret(self._folder / "secret")
            self.ids = Ids(self._secret)
        except OSError as error:
            self.reason = f"the folder for uploads cannot be used ({error.strerror}); see --files-folder"

    def owner(self, key: str) -> str:
        """The name under which a key's files are kept; of "" where no key is asked for."""
        return hmac.new(self._secret, f"owner {key}".encode(), hashlib.sha256).hexdigest()[:32]

    def reserve(self, owner: str, nbytes: int) -> Path:
        """Keep room for a file that is on its way: a draft of its size, to be given to `keep` or unlinked.

        Raises:
            RequestError: 503: there is no room.
        """
        with self.usable(), self.locked():
            used_bytes, number = self._sweep()
            if used_bytes + nbytes > self._max_bytes or number >= MAX_FILES:
                raise RequestError(
                    f"there is no room: {number} uploaded files take {used_bytes / 1e6:.0f} of "
                    f"{self._max_bytes / 1e6:.0f} MB here; delete some, or send the file in the request",
                    status=503,
                )
            folder = self._folder / owner
            folder.mkdir(mode=0o700, exist_ok=True)
            draft = folder / f"{_DRAFT}{secrets.token_hex(16)}"
            with open(draft, "xb", opener=_private) as opened:
                opened.truncate(nbytes)
            return draft

    def keep(self, draft: Path, data: IO[bytes], *, filename: str, purpose: str, age_s: int) -> StoredFile:
        """Make a file of a draft.

        Args:
            draft: from `reserve`.
            data: its bytes, a file.
            filename: any text.
            purpose: one of `PURPOSES`, or `batch_output`.
            age_s: seconds after which it expires.
        """
        file_id = self.ids.new(_PREFIX)
        size = data.seek(0, os.SEEK_END)
        data.seek(0)
        now = int(time.time())
        file = StoredFile(file_id, filename, purpose, size, now, now + age_s)
        with self.usable():
            with draft.open("r+b") as opened:
                opened.write(json.dumps(asdict(file)).encode() + b"\n")
                shutil.copyfileobj(data, opened, 1 << 20)
                opened.truncate()
            os.utime(draft, (now, file.expires_at))
            with self.locked():  # or a sweep that goes on meanwhile may count it under neither name
                draft.rename(draft.with_name(file_id))
        return file

    @contextlib.contextmanager
    def open(self, file_id: str, owner: str) -> Iterator[tuple[StoredFile, IO[bytes]]]:
        """A file, open at the beginning of its bytes.

        Raises:
            RequestError: 404: this owner has no such file, or it has expired; 421: it is of another folder.
        """
        missing = RequestError(f"there is no file {file_id[:100]!r}", status=404)
        with self.usable():
            if not _ID.fullmatch(file_id):
                raise missing
            try:
                opened = (self._folder / owner / file_id).open("rb")
            except FileNotFoundError:
                self.ids.check(file_id)
                raise missing from None
            with opened:
                if os.fstat(opened.fileno()).st_mtime <= time.time():
                    raise missing
                yield _read_head(opened), opened

    def hold(self, file_id: str, owner: str, path: Path) -> StoredFile:
        """Give a file a second name, under which it outlives its deletion; raises as `open` does.

        Args:
            file_id: of the file.
            owner: of the file.
            path: the second name, below the folder; for `open_held`.
        """
        with self.open(file_id, owner) as (file, opened):
            try:
                os.link(self._folder / owner / file_id, path)
            except OSError:  # deleted just now, or on a file system without links
                opened.seek(0)
                with path.open("xb") as copy:
                    shutil.copyfileobj(opened, copy, 1 << 20)
            return file

    @staticmethod
    @contextlib.contextmanager
    def open_held(path: Path) -> Iterator[IO[bytes]]:
        """A file by its second name, open at the beginning of its bytes."""
        with path.open("rb") as opened:
            _read_head(opened)
            yield opened

    def has_room(self) -> bool:
        """Whether the folder is less full than it may be."""
        with self.usable(), self.locked():
            return self._sweep()[0] < self._max_bytes

    def get(self, file_id: str, owner: str) -> StoredFile:
        """What is known of a file; raises as `open` does."""
        with self.open(file_id, owner) as (file, _):
            return file

    def read(self, file_id: str, owner: str) -> bytes:
        """The bytes of a file; raises as `open` does."""
        with self.open(file_id, owner) as (_, opened):
            return opened.read()

    def list(self, owner: str) -> list[StoredFile]:
        """All files of an owner, the newest first."""
        found = []
        with self.usable(), contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder / owner):
                with contextlib.suppress(RequestError):  # a draft, expired, or deleted meanwhile
                    found.append(self.get(name, owner))
        return sorted(found, key=lambda file: (-file.created_at, file.id))

    def delete(self, file_id: str, owner: str) -> None:
        """Delete a file; raises as `open` does."""
        self.get(file_id, owner)
        with self.usable():
            (self._folder / owner / file_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what has expired."""
        with self.usable(), self.locked():
            self._sweep()

    def sign(self, file_id: str, owner: str, expires_at: int) -> str:
        """A token that stands for a file until then, without its owner's key."""
        name = f"{self.get(file_id, owner).id}.{owner}.{expires_at}"
        return f"{name}.{self._signature(name)}"

    def signed(self, url: str) -> tuple[str, str] | None:
        """File id and owner, where a URL ends with a token of ours, whichever host it names.

        Raises:
            RequestError: 404: the token has expired.
        """
        found = _SIGNED_URL.fullmatch(url[:_MAX_URL_CHARS])
        return self.signed_token(found[1]) if found else None

    def signed_token(self, token: str) -> tuple[str, str] | None:
        """File id and owner of a token of ours; raises as `signed` does."""
        found = _TOKEN.fullmatch(token)
        if not found or self.reason:
            return None
        file_id, owner, expires_at, signature = found.groups()
        if not hmac.compare_digest(signature, self._signature(token.rpartition(".")[0])):
            return None
        if int(expires_at) <= time.time():
            raise RequestError("the URL of the file has expired", status=404)
        return file_id, owner

    def _signature(self, name: str) -> str:
        return hmac.new(self._secret, f"url {name}".encode(), hashlib.sha256).hexdigest()

    def _sweep(self) -> tuple[int, int]:
        """Delete what has expired; bytes of all that remains and number of files. Only with the lock."""
        now = time.time()
        used_bytes, number = _bytes_below(self.batches_folder), 0
        owners = [
            entry.path
            for entry in os.scandir(self._folder)
            if entry.is_dir(follow_symlinks=False) and entry.name != BATCHES
        ]
        for owner in owners:
            for entry in list(os.scandir(owner)):
                with contextlib.suppress(FileNotFoundError):  # deleted just now
                    stat = entry.stat(follow_symlinks=False)
                    life_s = _DRAFT_LIFE_S if entry.name.startswith(_DRAFT) else 0
                    if stat.st_mtime + life_s <= now:
                        os.unlink(entry)
                        continue
                    used_bytes += stat.st_size
                    number += 1
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(owner)
        return used_bytes, number

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes that use the folder."""
        with open(self._folder / "lock", "ab", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def usable(self) -> Iterator[None]:
        """Say in a 503 what is wrong with the folder."""
        if self.reason:
            raise RequestError(self.reason, status=503)
        try:
            yield
        except OSError as error:
            raise RequestError(
                f"the folder for uploads cannot be used now ({error.strerror})", status=503
            ) from error


def _read_head(opened: IO[bytes]) -> StoredFile:
    return StoredFile(**json.loads(opened.readline()))


def _bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder, each once, without those that have a name elsewhere and count there."""
    names_of: Counter[int] = Counter()  # by inode
    stats: dict[int, os.stat_result] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted just now
                stat = os.lstat(os.path.join(parent, name))
                names_of[stat.st_ino] += 1
                stats[stat.st_ino] = stat
    return sum(stat.st_size for inode, stat in stats.items() if stat.st_nlink == names_of[inode])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _read_or_make_secret(path: Path) -> bytes:
    """What tokens and the names of owners are made with: the same for all processes and later starts."""
    if not path.exists():
        draft = path.with_name("secret.new")
        draft.unlink(missing_ok=True)
        with open(draft, "xb", opener=_private) as opened:
            opened.write(secrets.token_bytes(32))
        draft.rename(path)
    return path.read_bytes()
