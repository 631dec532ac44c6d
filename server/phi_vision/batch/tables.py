"""A column of a CSV or Parquet file, read row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_vision.client.text import one_line
from phi_vision.errors import UsageError

SUFFIXES = frozenset({".csv", ".parquet"})
_ROWS_AT_ONCE = 1000


def read_column(path: Path, column: str | None) -> Iterator[str]:
    """Its cells as text; empty where there is none.

    Args:
        path: of a .csv or .parquet file.
        column: its name; None for the only one.

    Raises:
        UsageError: the file cannot be read, or has no such column.
    """
    return _read_parquet(path, column) if path.suffix.lower() == ".parquet" else _read_csv(path, column)


def pyarrow_parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("Parquet files need pyarrow: pip install 'phi-vision[parquet]'") from error
    return pyarrow.parquet


def _read_csv(path: Path, column: str | None) -> Iterator[str]:
    try:
        # Names of files need not be Unicode.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            chosen = _choose(path, rows.fieldnames or (), column)
            for row in rows:
                yield row[chosen] or ""
    except OSError as error:
        raise UsageError(f"cannot read {_named(path)}: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{_named(path)} is not a table: {error}") from error


def _read_parquet(path: Path, column: str | None) -> Iterator[str]:
    parquet = pyarrow_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            chosen = _choose(path, file.schema_arrow.names, column)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[chosen]):
                for cell in batch.column(0).to_pylist():
                    if not isinstance(cell, str | None):
                        raise UsageError(f"{_named(path)}: the column {chosen!r} holds no text")
                    yield cell or ""
    except OSError as error:
        raise UsageError(f"cannot read {_named(path)}: {error.strerror or one_line(str(error))}") from error
    except ValueError as error:  # pyarrow's errors are of this class
        raise UsageError(f"{_named(path)} is not a table: {one_line(str(error))}") from error


def _choose(path: Path, names: Sequence[str], column: str | None) -> str:
    if column in names:
        return str(column)
    if column is None and len(names) == 1:
        return names[0]
    missing = "which column has the paths? Add --column" if column is None else f"it has no column {column!r}"
    known = one_line(", ".join(names)) or "none"
    raise UsageError(f"{_named(path)}: {missing}; its columns: {known}")


def _named(path: Path) -> str:
    return one_line(str(path))
