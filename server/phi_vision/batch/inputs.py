"""What the user named -> the items of a run, one after the other; no more than a folder's names is held.

An item is a picture, a page of a document, or a line of an OpenAI batch file. Files are found by their suffix
and not opened, but for documents, whose pages are counted.
"""

from __future__ import annotations

import asyncio
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_vision.batch import tables
from phi_vision.batch.pages import Pages
from phi_vision.batch.work import Item
from phi_vision.client.images import is_url
from phi_vision.client.text import one_line
from phi_vision.errors import RequestError, UsageError
from phi_vision.limits import Limits
from phi_vision.media.pages import may_have_pages

DOCUMENTS = frozenset({".pdf", ".tif", ".tiff"})
PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
_LIST, _LINES = ".txt", ".jsonl"
_HEAD_BYTES = 1024  # of a file without a known suffix
_LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})

Kind = Literal["files", "lines"]


def kind_of(names: Iterable[str]) -> Kind:
    """Whether these are files of any kind, or OpenAI batch files.

    Raises:
        UsageError: there are both, which are answered in different forms.
    """
    kinds: set[Kind] = {"lines" if _suffix(name) == _LINES else "files" for name in names}
    if len(kinds) != 1:
        raise UsageError("a run has files or OpenAI batch files (.jsonl), not both")
    return kinds.pop()


@dataclass(frozen=True)
class Files:
    """Pictures and documents, by name.

    A folder is walked in the order of names, without hidden files and without files of other suffixes. A file
    or address that is named, in a list too, is an item whatever it is: to ask for it says what is wrong.

    Args:
        names: files, folders, globs, addresses; .txt lists; .csv and .parquet tables.
        column: of tables: where the paths or addresses are.
        base: keys are relative to this folder: an item has the same key from wherever a run is started.
        output: a folder that is not walked.
    """

    names: Sequence[str]
    column: str | None
    base: Path
    output: Path

    def check(self) -> None:
        """Fail before anything is started.

        Raises:
            UsageError: there is no such file, or a table has no such column.
        """
        if self.column and not any(_suffix(name) in tables.SUFFIXES for name in self.names):
            raise UsageError("--column is for .csv and .parquet files")
        for name in self.names:
            if _suffix(name) in tables.SUFFIXES and os.path.isfile(name):
                next(self._cells(name), None)
            elif not is_url(name) and not os.path.exists(name) and not _matches(name):
                raise UsageError(f"cannot read {one_line(name)}: there is no such file or folder")

    def items(self, pages: Pages) -> Iterator[Item]:
        """Each picture and page.

        A document that cannot be opened is one item, its first page: to ask for it says why.

        Args:
            pages: counts those of documents.

        Raises:
            UsageError: a list, a table or a folder cannot be read.
        """
        with asyncio.Runner() as runner:
            for source in self.sources():
                count = runner.run(pages.count_if_opened(source)) if is_document(source) else None
                yield from self.items_of(source, count)

    def items_of(self, source: str, num_pages: int | None) -> Iterator[Item]:
        """The items of one of the `sources`.

        Args:
            source: one of them.
            num_pages: of a document, 0 where it cannot be opened; None of a picture.
        """
        key = self._key(source)
        if num_pages is None:
            yield Item(key, {"source": source})
        elif num_pages == 0:
            yield Item(f"{key}#1", {"source": source, "page": 1})
        else:
            for page in range(1, num_pages + 1):
                yield Item(f"{key}#{page}", {"source": source, "page": page, "pages": num_pages})

    def sources(self) -> Iterator[str]:
        """Absolute paths and addresses of pictures and documents.

        Raises:
            UsageError: a list, a table or a folder cannot be read.
        """
        for name in self.names:
            suffix = _suffix(name)
            if is_url(name):
                yield name
            elif os.path.isdir(name):
                yield from self._walk(os.path.abspath(name))
            elif not os.path.exists(name) and (matches := _matches(name)):
                for match in matches:
                    yield from self._found(os.path.abspath(match))
            elif suffix == _LIST:
                yield from _listed(name, _lines(name, errors="surrogateescape"))  # names need not be Unicode
            elif suffix in tables.SUFFIXES:
                yield from _listed(name, self._cells(name))
            else:
                yield os.path.abspath(name)

    def _walk(self, folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
        try:
            about = os.stat(folder)
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise UsageError(f"cannot list {one_line(folder)}: {error.strerror}") from error
        here = (about.st_dev, about.st_ino)
        if here in above or folder == os.path.abspath(self.output):  # the former: a loop of links
            return
        for name in names:
            if not name.startswith("."):
                yield from self._found(os.path.join(folder, name), above | {here})

    def _found(self, path: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
        if _suffix(path) in DOCUMENTS | PICTURES and os.path.isfile(path):
            yield path
        elif os.path.isdir(path):
            yield from self._walk(path, above)

    def _cells(self, name: str) -> Iterator[str]:
        return tables.read_column(Path(name), self.column)

    def _key(self, source: str) -> str:
        if is_url(source):
            return source
        relative = os.path.relpath(source, self.base)
        return source if relative.split(os.sep)[0] == os.pardir else relative


def batch_lines(names: Sequence[str]) -> Iterator[Item]:
    """The lines of OpenAI batch files.

    Raises:
        UsageError: a file cannot be read, or a line is not as it should be; the message names it.
    """
    seen: set[int] = set()  # hashes: a file may have a million lines
    for name in names:
        for number, line in enumerate(_lines(name), 1):
            if not line.strip():
                continue
            try:
                item = parse_batch_line(line)
                if hash(item.key) in seen:
                    raise RequestError(f"an earlier line has the custom_id {item.key!r}", param="custom_id")
            except RequestError as error:
                raise UsageError(f"{one_line(name)}, line {number}: {one_line(str(error))}") from error
            seen.add(hash(item.key))
            yield item


def parse_batch_line(line: str) -> Item:
    """A line of an OpenAI batch file.

    Raises:
        RequestError: it is none; names the field.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError("it is not JSON") from error
    if not isinstance(request, dict):
        raise RequestError("it is not a JSON object")
    for name in sorted(request.keys() - _LINE_FIELDS):
        raise RequestError(f"a request of a batch has no field {name!r}", param=name)
    checks: Mapping[str, tuple[Callable[[Any], bool], str]] = {
        "custom_id": (lambda value: isinstance(value, str) and value != "", "must be text"),
        "method": (lambda value: value == "POST", "must be POST"),
        "url": (lambda value: isinstance(value, str) and value.startswith("/v1/"), "must begin with /v1/"),
        "body": (lambda value: isinstance(value, dict), "must be an object"),
    }
    for name, (is_good, demand) in checks.items():
        if not is_good(request.get(name)):
            raise RequestError(f"{name} {demand}", param=name)
    return Item(request["custom_id"], {name: request[name] for name in ("method", "url", "body")})


def _suffix(name: str) -> str:
    path = re.split("[?#]", name, maxsplit=1)[0] if is_url(name) else name
    return os.path.splitext(path)[1].lower()


def is_document(source: str) -> bool:
    """Whether it may have pages: by its suffix; a file without one that is known is looked at."""
    suffix = _suffix(source)
    if suffix in DOCUMENTS | PICTURES or is_url(source):
        return suffix in DOCUMENTS
    try:
        if not os.path.isfile(source):
            return False
        with open(source, "rb") as file:
            return may_have_pages(file.read(_HEAD_BYTES))
    except (OSError, ValueError):
        return False  # to ask for it says why


def _matches(pattern: str) -> list[str]:
    """What a glob stands for, in the order of names."""
    return sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []


def _listed(name: str, cells: Iterable[str]) -> Iterator[str]:
    """The sources that a list or table names; paths are relative to its own folder."""
    folder = os.path.dirname(os.path.abspath(name))
    for cell in cells:
        entry = cell.strip()
        if is_url(entry):
            yield entry
        elif "://" in entry:
            raise UsageError(f"{one_line(name)}: {one_line(entry)} is no path and no http or https address")
        elif entry:
            yield os.path.normpath(os.path.join(folder, os.path.expanduser(entry)))


def _lines(name: str, errors: str = "strict") -> Iterator[str]:
    """The lines of a text file; blank ones too."""
    most = int(Limits.max_body_mb * 1e6)
    try:
        with open(name, encoding="utf-8-sig", errors=errors) as file:
            while line := file.readline(most + 1):
                if len(line) > most:
                    raise UsageError(f"a line of {one_line(name)} is longer than {most / 1e6:g} MB")
                yield line
    except OSError as error:
        raise UsageError(f"cannot read {one_line(name)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{one_line(name)} is not UTF-8") from error
