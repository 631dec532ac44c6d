"""The results of a run as files, in the order of its items. What still waits is left out.

The queue is the truth: the files are made from it as a whole, and the same again from the same results. So
they hold nothing that depends on when or where an item was asked; that is in the report.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any, Protocol

from phi_vision.batch import tables
from phi_vision.batch.work import Record
from phi_vision.client.output import replacing
from phi_vision.client.text import one_line

FORMATS = ("jsonl", "md", "txt", "parquet")
_ANSWER_FIELDS = ("text", "confidence", "words", "model", "usage", "rotation", "tiles", "attempts")
_ROWS_AT_ONCE = 200  # a page may have a thousand words


def write_results(folder: Path, records: Iterable[Record], formats: Iterable[str]) -> list[Path]:
    """Write `results.jsonl` and the like, of pictures and pages.

    Args:
        folder: of the run.
        records: that are done or have failed. Read once; a few are in memory.
        formats: of `FORMATS`.

    Returns:
        The files.

    Raises:
        UsageError: a file cannot be written, or pyarrow is missing; those of before are as they were.
    """
    paths = {name: folder / f"results.{name}" for name in formats}
    with ExitStack() as stack:
        writers = []
        for name, path in paths.items():
            writer = _WRITERS[name](stack.enter_context(replacing(path)))
            writers.append(stack.enter_context(closing(writer)))
        for record in records:
            for writer in writers:
                writer.add(record)
    return list(paths.values())


def write_responses(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Write `results.jsonl` and `errors.jsonl`, of the lines of a batch file.

    Args:
        folder: of the run.
        records: that are done or have failed.

    Raises:
        UsageError: a file cannot be written; those of before are as they were.
    """
    paths = {"done": folder / "results.jsonl", "failed": folder / "errors.jsonl"}
    with ExitStack() as stack:
        files = {state: stack.enter_context(replacing(path)) for state, path in paths.items()}
        for record in records:
            files[record.state].write(_json_line(response_line(record)))
    return list(paths.values())


def response_line(record: Record) -> dict[str, Any]:
    """A line of OpenAI's output file or, of a record that has failed, of its error file."""
    response, error = record.result, None
    if record.error is not None:
        error = {"code": record.error["cause"], "message": record.error["message"]}
        if (body := record.error.get("body")) is not None:  # a server's answer, if not a good one
            response, error = {"status_code": record.error["status"], "request_id": "", "body": body}, None
    digest = hashlib.sha256(record.item.key.encode(errors="surrogatepass")).hexdigest()
    return {
        "id": f"batch_req_{digest[:24]}",
        "custom_id": record.item.key,
        "response": response,
        "error": error,
    }


class _Writer(Protocol):
    def __init__(self, file: IO[bytes]) -> None: ...

    def add(self, record: Record) -> None: ...

    def close(self) -> None: ...


class _Jsonl:
    """A line of JSON for each item."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, record: Record) -> None:
        self._file.write(_json_line(_row(record)))

    def close(self) -> None:
        pass


class _Text:
    """The texts, each below a line that says whose it is."""

    _HEADING = "--- {} ---\n"
    _BETWEEN = ""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = ""

    def add(self, record: Record) -> None:
        text = (record.result or {}).get("text", "")
        end = "\n" if text and not text.endswith("\n") else ""
        heading = self._HEADING.format(self._escaped(_heading(record)))
        self._file.write(_bytes(f"{self._before}{heading}{text}{end}"))
        self._before = self._BETWEEN

    def close(self) -> None:
        pass

    def _escaped(self, heading: str) -> str:
        return heading


class _Markdown(_Text):
    """The same as Markdown."""

    _HEADING = "## {}\n\n"
    _BETWEEN = "\n"

    def _escaped(self, heading: str) -> str:
        return re.sub(r"([\\`*_<>\[\]#|~])", r"\\\1", heading)


class _Parquet:
    """A row for each item. What is nested in JSON has columns of its own, or is JSON as text."""

    def __init__(self, file: IO[bytes]) -> None:
        parquet = tables.pyarrow_parquet()
        import pyarrow

        self._pyarrow = pyarrow
        word = pyarrow.struct(
            [("text", pyarrow.string()), ("confidence", pyarrow.float64()), ("start", pyarrow.int64())]
        )
        self._schema = pyarrow.schema(
            [
                *((name, pyarrow.string()) for name in ("key", "source")),
                *((name, pyarrow.int64()) for name in ("page", "pages")),
                *((name, pyarrow.string()) for name in ("status", "text")),
                ("confidence", pyarrow.float64()),
                ("words", pyarrow.list_(word)),
                ("model", pyarrow.string()),
                *((name, pyarrow.int64()) for name in ("prompt_tokens", "completion_tokens")),
                *((name, pyarrow.int64()) for name in ("rotation", "tiles")),
                *((name, pyarrow.string()) for name in ("attempts", "error", "error_cause")),
                ("error_status", pyarrow.int64()),
            ]
        )
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, record: Record) -> None:
        self._rows.append(_flat(_row(record)))
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows.clear()


_WRITERS: Mapping[str, type[_Writer]] = {
    "jsonl": _Jsonl,
    "md": _Markdown,
    "txt": _Text,
    "parquet": _Parquet,
}


def _row(record: Record) -> dict[str, Any]:
    """All that is known of an item and does not depend on when it was asked."""
    request, answer = record.item.request, record.result or {}
    status = answer.get("status") if record.error is None else "failed"
    return {
        "key": record.item.key,
        **{name: request.get(name) for name in ("source", "page", "pages")},
        "status": status,
        **{name: answer.get(name) for name in _ANSWER_FIELDS},
        "error": record.error,
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the columns of a table."""
    usage, error, words = row["usage"] or {}, row["error"] or {}, row["words"]
    columns = {
        **row,
        **{name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")},
        "words": None if words is None else [dict(zip(_WORD, word, strict=True)) for word in words],
        "attempts": None if row["attempts"] is None else json.dumps(row["attempts"]),
        "error": error.get("message"),
        "error_cause": error.get("cause"),
        "error_status": error.get("status"),
    }
    return {name: _encodable(value) if isinstance(value, str) else value for name, value in columns.items()}


_WORD = ("text", "confidence", "start")


def _heading(record: Record) -> str:
    """Which picture or page, and what is not right with its text."""
    key, request = record.item.key, record.item.request
    if (page := request.get("page")) is not None:
        key = f"{key.removesuffix(f'#{page}')}, page {page}"
        key += f" of {request['pages']}" if request.get("pages") else ""
    status = (record.result or {}).get("status")
    if record.error is not None:
        key += f" (failed: {record.error['message']})"
    elif status != "complete":
        key += f" ({status})"
    return one_line(key)


def _json_line(value: Mapping[str, Any]) -> bytes:
    return _bytes(json.dumps(value, ensure_ascii=False) + "\n")


def _encodable(text: str) -> str:
    return _bytes(text).decode()


def _bytes(text: str) -> bytes:
    """Halves of surrogate pairs as escapes: names of files and models' texts have them."""
    return text.encode("utf-8", "backslashreplace")
