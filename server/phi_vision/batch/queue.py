"""The durable queue of a run: one SQLite file that holds every item, where it stands and what came of it.

All else (output files, reports, progress) is made from it. What is committed survives `kill -9` and a power
cut: the file has a write-ahead log that is flushed with each transaction.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phi_vision.batch.work import STATES, Counts, Item, ItemError, Record, State
from phi_vision.errors import PhiVisionError, UsageError

_VERSION = 1  # of the tables
_ADDED_AT_ONCE = 1000  # items of a transaction of `add`
_ADDED_CHARS_AT_ONCE = 16_000_000  # of their requests
_READ_AT_ONCE = 200  # records that `records` holds

# `place` is the number of an item plus one. Items that wait are taken in order of `turn`, then of place: one
# that is put behind the others gets a higher turn. A key is text, or bytes where it is no Unicode.
_TABLES = """
CREATE TABLE settings (value TEXT NOT NULL);
CREATE TABLE items (
    place INTEGER PRIMARY KEY,
    key NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'waiting',
    turn INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL,
    result TEXT,
    error TEXT
);
CREATE INDEX next ON items (state, turn);
"""
_COLUMNS = "place, key, request, state, attempts, result, error"


class QueueInUse(UsageError):
    """Another process has the queue open."""


class QueueError(PhiVisionError):
    """The file cannot be read or written, for example because the disk is full. It holds what it held."""


class Queue:
    """Opened by one process at a time. Items that a process which died had asked are waiting again.

    Its methods may be called from any thread; each takes a few milliseconds.

    Args:
        path: the file, created if it is not there. The lock is beside it, with the suffix `.lock`.
        exclusive: that nobody else may even read it meanwhile. SQLite then shares no memory with other
            processes, which it cannot on a network's file system.

    Raises:
        QueueInUse: another process has it open.
        UsageError: it is no queue of this version.
        QueueError: here and in each method: see there.
    """

    def __init__(self, path: Path, *, exclusive: bool = False) -> None:
        self.path = path
        self._exclusive = exclusive
        self._counts: Counts = dict.fromkeys(STATES, 0)
        self._guard = threading.RLock()
        self._opened = contextlib.ExitStack()
        try:
            self._opened.enter_context(_locked(path))
            with self._faults():
                self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._opened.callback(self._database.close)
                self._prepare()
        except BaseException:
            self._opened.close()
            raise

    def close(self) -> None:
        """Let others open it."""
        with self._guard:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON kept with the run: what was asked for. Empty at first."""
        with self._guard, self._faults():
            row = self._database.execute("SELECT value FROM settings").fetchone()
        return {} if row is None else json.loads(row[0])

    def set_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace them."""
        with self.transaction():
            self._database.execute("DELETE FROM settings")
            self._database.execute("INSERT INTO settings VALUES (?)", (json.dumps(dict(settings)),))

    def counts(self) -> Counts:
        """How many items are in each state; takes no time."""
        with self._guard:
            return dict(self._counts)

    def records(self, *states: State) -> Iterator[Record]:
        """Those in these states, or all, in order of number. A few are held at a time."""
        marks = ",".join("?" * len(states or STATES))
        # The index would have each piece sorted anew: "+" keeps it out.
        query = f"SELECT {_COLUMNS} FROM items WHERE place > ? AND +state IN ({marks}) ORDER BY place LIMIT ?"
        place = 0
        while True:
            with self._guard, self._faults():
                rows = self._database.execute(query, (place, *(states or STATES), _READ_AT_ONCE)).fetchall()
            yield from map(_record, rows)
            if len(rows) < _READ_AT_ONCE:
                return
            place = rows[-1][0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is called within is written together or, after an exception, not at all. May be nested."""
        with self._guard, self._faults():
            if self._database.in_transaction:
                yield
                return
            counts = dict(self._counts)
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._counts = counts
                if self._database.in_transaction:  # SQLite ends it by itself where the disk is full
                    self._database.execute("ROLLBACK")
                raise

    def add(self, items: Iterable[Item]) -> int:
        """Put items behind those that are there; of one whose key is there only the request is new, if it is
        not done.

        They are read lazily and written in pieces, so that what was read before an exception is kept.

        Returns:
            How many were new.
        """
        added = 0
        for rows in _pieces(items):
            with self.transaction():
                before = self._last_place()
                self._database.executemany(
                    "INSERT INTO items (key, request) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET"
                    " request = excluded.request WHERE state <> 'done' AND request <> excluded.request",
                    rows,
                )
                new = self._last_place() - before
                self._counts["waiting"] += new
            added += new
        return added

    def take(self) -> Record | None:
        """The next item that waits; it counts as asked from now on. None if none waits."""
        with self.transaction():
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM items WHERE state = 'waiting' ORDER BY turn, place LIMIT 1"
            ).fetchone()
            return None if row is None else self._move(_record(row), "asked")

    def give_back(self, record: Record) -> None:
        """An item that was taken waits again, in its old place; no attempt is counted."""
        self._move(record, "waiting")

    def give_back_all(self) -> None:
        """The same of all that were taken."""
        with self.transaction():
            changed = self._database.execute(
                "UPDATE items SET state = 'waiting' WHERE state = 'asked'"
            ).rowcount
            self._counts["asked"] -= changed
            self._counts["waiting"] += changed

    def finish(self, record: Record, result: Mapping[str, Any]) -> Record:
        """Keep the result, JSON, of an item that was taken: it is done."""
        return self._move(replace(record, attempts=record.attempts + 1, result=result), "done")

    def fail(self, record: Record, error: ItemError, *, again: bool) -> Record:
        """Count an attempt of an item that was taken: it has failed or, `again`, waits behind the others."""
        record = replace(record, attempts=record.attempts + 1)
        if again:
            return self._move(record, "waiting", behind=True)
        return self._move(replace(record, error=error.as_json()), "failed")

    def retry_failed(self) -> int:
        """Have the items that failed wait again, with all their attempts; how many those are."""
        with self.transaction():
            changed = self._database.execute(
                "UPDATE items SET state = 'waiting', turn = 0, attempts = 0, error = NULL"
                " WHERE state = 'failed'"
            ).rowcount
            self._counts["failed"] -= changed
            self._counts["waiting"] += changed
        return changed

    def _last_place(self) -> int:
        place: int = self._database.execute("SELECT coalesce(max(place), 0) FROM items").fetchone()[0]
        return place

    def _move(self, record: Record, state: State, *, behind: bool = False) -> Record:
        """Write a record into a new state. Its old one must be what the file has."""
        turn = "(SELECT max(turn) + 1 FROM items WHERE state = 'waiting')" if behind else "NULL"
        with self.transaction():
            moved = self._database.execute(
                "UPDATE items SET state = ?, attempts = ?, result = ?, error = ?,"
                f" turn = coalesce({turn}, turn) WHERE place = ? AND state = ?",
                (
                    state,
                    record.attempts,
                    _optional_json(record.result),
                    _optional_json(record.error),
                    record.number + 1,
                    record.state,
                ),
            ).rowcount
            if not moved:
                raise ValueError(f"{record.item.key!r} is not {record.state}")
            self._counts[record.state] -= 1
            self._counts[state] += 1
        return replace(record, state=state)

    def _prepare(self) -> None:
        """Create the tables, or see that they are ours, and put back what a process that died had asked."""
        if self._exclusive:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self.transaction():
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _TABLES.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise UsageError(f"{self.path} is of another version of phi-vision; name another folder")
            self._counts.update(
                self._database.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()
            )
            self.give_back_all()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Say SQLite's errors in words."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_NOTADB:
                raise UsageError(f"{self.path} is not the state of a run; name another folder") from error
            when = "there is space again" if code == sqlite3.SQLITE_FULL else "it can be"
            raise QueueError(
                f"cannot write {self.path} ({error}); what is done is kept: start again once {when}"
            ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a queue. It ends with the process, however that ends."""
    try:
        lock = path.with_suffix(".lock").open("ab")
    except OSError as error:
        raise UsageError(f"cannot write to {path.parent}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QueueInUse(
                f"another run is at work on {path.parent}; wait until it has ended, or name another folder"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot lock {path.parent}: {error.strerror}") from error
        yield


def _record(row: tuple[Any, ...]) -> Record:
    place, key, request, state, attempts, result, error = row
    return Record(
        place - 1,
        Item(key if isinstance(key, str) else key.decode(errors="surrogatepass"), json.loads(request)),
        state,
        attempts,
        None if result is None else json.loads(result),
        None if error is None else json.loads(error),
    )


def _stored_key(key: str) -> str | bytes:
    """As bytes where it is no Unicode, as the name of a file may be."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return key.encode(errors="surrogatepass")
    return key


def _pieces(items: Iterable[Item]) -> Iterator[list[tuple[str | bytes, str]]]:
    """Rows for `add`, in pieces: a line of a batch file may be megabytes."""
    rows, num_chars = [], 0
    for item in items:
        rows.append((_stored_key(item.key), json.dumps(dict(item.request))))
        num_chars += len(rows[-1][1])
        if len(rows) == _ADDED_AT_ONCE or num_chars > _ADDED_CHARS_AT_ONCE:
            yield rows
            rows, num_chars = [], 0
    if rows:
        yield rows


def _optional_json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(dict(value))
