"""A run to look at: `report.html`, and beside it the data in pieces that the page loads when it needs them.

A page opened from a file may not fetch, so each piece is a script that hands its data to `received`
(`report/data.js`). The list of items is a piece of its own, so that it is there at once; texts follow. All of
it is JSON in ASCII, and the page puts it into text nodes only: nothing that a model wrote is read as HTML.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from phi_vision.batch.work import Record
from phi_vision.client.output import replacing, write_whole
from phi_vision.documents.answers import Answer, status_of
from phi_vision.documents.readings import LOW_CONFIDENCE
from phi_vision.errors import UsageError

MOST_ITEMS = 100_000  # that the page lists; it would take long to write and to search many more
PIECE_RECORDS = 200
_PIECE_CHARS = 4_000_000  # pages of small print make a piece large before it has so many
_STATIC = resources.files("phi_vision.batch") / "report"
_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}  # what every browser shows
_TOKENS = ("prompt_tokens", "completion_tokens")
_PIECE_NAME = re.compile(r"([0-9]{4,})\.js")


def write_report(folder: Path, records: Iterable[Record], summary: Mapping[str, Any]) -> Path:
    """Write `folder/report.html` and `folder/report/`, in the place of those of an earlier run.

    Args:
        folder: of the run.
        records: in the order in which they are shown. The first `MOST_ITEMS` are read, once; a piece at a
            time is in memory.
        summary: JSON, what is known of the run as a whole. `seconds` (wall time) and `pages_per_s` or the
            like stand among the totals, the rest as it is. `items` says how many there are.

    Returns:
        The page.

    Raises:
        UsageError: the files cannot be written.
    """
    data = folder / "report"
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {data}: {error.strerror or error}") from error
    run = secrets.token_hex(8)  # tells the page which pieces belong together
    pieces = _Pieces(data, run)
    tokens = dict.fromkeys(_TOKENS, 0)
    examples: dict[str, str] = {}  # by cause
    with replacing(data / "index.js") as index:
        index.write(f'received("index", "{run}", ['.encode())
        for record in itertools.islice(records, MOST_ITEMS):
            answer = _answer(record)
            index.write(f"\n{_json(_row(record, answer))},".encode())
            pieces.add(_details(record, answer, folder))
            for name in tokens:
                tokens[name] += (answer.get("usage") or {}).get(name) or 0
            if record.error:
                examples.setdefault(record.error["cause"], record.error["message"])
        pieces.close()
        about = {
            "name": folder.resolve().name,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "low_confidence": _percent(LOW_CONFIDENCE),
            "starts": pieces.starts,
            "examples": examples,
            **tokens,
            "summary": dict(summary),
        }
        index.write(f"\n], {_json(about)});\n".encode())
    page = folder / "report.html"
    for file in _STATIC.iterdir():
        write_whole(page if file.name == page.name else data / file.name, file.read_text("utf-8"))
    return page


class _Pieces:
    """`0001.js`, `0002.js` ...: what the page shows of each item, some 200 in each.

    Attributes:
        starts: of each piece, the number of its first item.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.starts: list[int] = []
        self._folder = folder
        self._run = run
        self._lines: list[str] = []
        self._count = 0

    def add(self, details: Mapping[str, Any]) -> None:
        self._lines.append(_json(details))
        self._count += 1
        if len(self._lines) == PIECE_RECORDS or sum(map(len, self._lines)) > _PIECE_CHARS:
            self._write()

    def close(self) -> None:
        """Write what is left, and remove the pieces of an earlier, longer run."""
        if self._lines:
            self._write()
        for file in self._folder.iterdir():
            name = _PIECE_NAME.fullmatch(file.name)
            if name and int(name[1]) > len(self.starts):
                file.unlink()

    def _write(self) -> None:
        self.starts.append(self._count - len(self._lines))
        name = f"{len(self.starts):04}"
        lines = ",\n".join(self._lines)
        write_whole(self._folder / f"{name}.js", f'received("{name}", "{self._run}", [\n{lines}\n]);\n')
        self._lines.clear()


def _row(record: Record, answer: Mapping[str, Any]) -> list[Any]:
    """An item in the list: key, status, confidence in percent, milliseconds, and why it failed."""
    seconds = answer.get("seconds")
    row = [
        record.item.key,
        {"done": answer.get("status"), "failed": "failed"}.get(record.state, "waiting"),
        _percent(answer.get("confidence")),
        None if seconds is None else round(1000 * seconds),
    ]
    return [*row, record.error["cause"]] if record.error else row


def _details(record: Record, answer: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the viewer shows of an item; what there is nothing of is left out."""
    text = answer.get("text")
    details = {
        "text": text,
        "words": _words(text or "", answer.get("words") or ()),
        "source": _source(record.item.request, folder),
        **{name: answer.get(name) for name in ("model", "server", "usage", "rotation", "tiles", "attempts")},
        "error": record.error and {name: record.error.get(name) for name in ("message", "cause", "status")},
        "asked": record.attempts,
    }
    return {name: value for name, value in details.items() if value or name == "text"}


def _answer(record: Record) -> Mapping[str, Any]:
    """The result in the form of a file's. That of a line of a batch file is a response, of any shape."""
    result = record.result or {}
    if "body" not in result:
        return result
    body = result["body"]
    try:
        choice = body["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    except (LookupError, TypeError):
        text, reason = None, None
    status = status_of(Answer("", finish_reason=reason)) if isinstance(reason, str) else "complete"
    usage = body["usage"] if isinstance(body.get("usage"), Mapping) else {}
    return {
        "text": text if isinstance(text, str) else json.dumps(body, indent=2, ensure_ascii=False),
        "status": "complete" if status == "failed" else status,  # it came for a reason that only others have
        "model": body["model"] if isinstance(body.get("model"), str) else None,
        "usage": {name: count for name, count in usage.items() if name in _TOKENS and isinstance(count, int)},
    }


def _words(text: str, words: Iterable[Sequence[Any]]) -> list[int]:
    """Start, length and confidence in percent of each word, one after the other.

    Places are in UTF-16, as JavaScript counts them.
    """
    wide = [place for place, char in enumerate(text) if char > "\uffff"]
    found = []
    for word, confidence, start in words:
        if (percent := _percent(confidence)) is not None:
            first, last = (place + bisect_left(wide, place) for place in (start, start + len(word)))
            found += [first, last - first, percent]
    return found


def _source(request: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """Where the page can be looked at: `kind` is `picture`, `pdf`, or `link` for what a browser cannot show
    without help or the network."""
    name = request.get("source")
    if not isinstance(name, str) or name[:5].lower() == "data:":
        return None
    source = {"name": name, "page": request.get("page")}
    if re.match("https?://", name, re.IGNORECASE):
        return {**source, "kind": "link", "href": name}
    suffix = Path(name).suffix.lower()
    kind = "picture" if suffix in _PICTURES else "pdf" if suffix == ".pdf" else "link"
    path = os.path.relpath(name, folder)
    return {**source, "kind": kind, "href": quote(os.fsencode(path))}


def _percent(share: Any) -> int | None:
    """Rounded down, so that what is below a bound looks it."""
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        return None
    return int(round(100 * share, 6))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
