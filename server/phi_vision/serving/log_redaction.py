"""Redaction of log records: no control characters, no pictures and no keys from URLs.

Escape sequences in a client's text would reach the terminal that shows the log, and line breaks would forge
lines. At debug level vLLM logs whole bodies including pictures, and uvicorn logs URLs with the keys that some
clients put into them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

_SHORTEST = 100  # characters of base64; no picture is shorter, hashes are
_BASE64 = re.compile(
    r"(?<=base64,)(?:[A-Za-z0-9+/=_%\r\n-]|\\[rn])+"
    rf"|[A-Za-z0-9+/]{{{_SHORTEST},}}={{0,2}}"
    r"|(?:[A-Za-z0-9+/]{60,}(?:\\r|\\n|\r|\n)+){2,}[A-Za-z0-9+/]*={0,2}"  # in lines, as in mail
)
# Control characters, what reverses the direction of text, and what cannot be encoded.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAKS = re.compile(r"[\t\n]")
_QUERY = re.compile(r"\?[^\s\"']+")


class CleanRecords:
    """A factory of log records whose text is redacted, whatever formats them.

    A message with arguments is a format string of the program and is left as it is; its arguments are data
    and are redacted. A message without arguments is redacted but keeps its line breaks.
    """

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """As `logging.LogRecord`."""
        record = self._factory(*args, **kwargs)
        web = record.name.startswith("uvicorn")
        if isinstance(record.args, tuple):
            record.args = tuple(_Clean.of(value, web) for value in record.args)
        elif isinstance(record.args, dict):
            record.args = {name: _Clean.of(value, web) for name, value in record.args.items()}
        if not record.args:
            record.msg = clean(str(record.msg), web=web)
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters use this text if it is set.
            record.exc_text = clean(logging.Formatter().formatException(record.exc_info))
        return record


class _Clean:
    """An argument that is redacted, and put on one line, only if it is formatted."""

    def __init__(self, value: Any, web: bool) -> None:
        self._value = value
        self._web = web

    @classmethod
    def of(cls, value: Any, web: bool) -> Any:
        if value is None or isinstance(value, int | float):
            return value
        return _on_one_line(clean(value, web=web)) if isinstance(value, str) else cls(value, web)

    def __int__(self) -> int:
        return int(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __str__(self) -> str:
        return _on_one_line(clean(str(self._value), web=self._web))

    def __repr__(self) -> str:
        return _on_one_line(clean(repr(self._value), web=self._web))


def clean(text: str, *, web: bool = False) -> str:
    """Shorten base64 and escape control characters other than tab and line feed.

    Args:
        text: of a log line.
        web: whether it may contain URLs; the values in their queries are masked.
    """
    if len(text) >= _SHORTEST:
        text = _BASE64.sub(lambda run: f"<{len(run[0])} characters>", text)
    if web:
        text = _QUERY.sub(_without_values, text)
    return _CONTROL.sub(_escaped, text)


def _without_values(query: re.Match[str]) -> str:
    fields = [field.partition("=") for field in query[0][1:].split("&")]
    return "?" + "&".join(f"{name}=***" if equals else "***" for name, equals, _ in fields)


def _on_one_line(text: str) -> str:
    return _LINE_BREAKS.sub(_escaped, text)


def _escaped(sign: re.Match[str]) -> str:
    return sign[0].encode("unicode_escape").decode()
