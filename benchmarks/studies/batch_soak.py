"""Is a run of `phi-vision batch` that is killed again and again the same as one that nobody disturbs?

    python -m benchmarks.studies.batch_soak --out FILE [--items N] [--many-items N]

Small pictures with distinct known answers, some poisonous files among them, are asked of a server that stands
in for ours (`tests/support/answering_server.py`). The client is killed with SIGKILL five times and the server
twice, each time after a random number of items. The output must then be that of an undisturbed run, and
nothing may be asked twice but what was under way. After that: how much memory the client takes over many
items.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil
from phi_vision.processes import tie_to_parent
from PIL import Image

from benchmarks.harness.machine import describe_machine
from tests.support.answering_server import AnsweringServer, text_of

SEED = 15
CONCURRENCY = 8
MANY_CONCURRENCY = 32
SAMPLES = 20  # of the memory
MAX_GROWTH_BYTES = 16_000_000  # between a tenth of the items and all of them
_POLL_S = 0.02

Poison = Literal["no picture", "500", "drop"]
POISON: tuple[Poison, ...] = ("no picture",) * 4 + ("500",) * 3 + ("drop",) * 3
Victim = Literal["client", "server"]
VICTIMS: tuple[Victim, ...] = ("client",) * 5 + ("server",) * 2
Kill = tuple[Victim, int]  # and after how many items


def main() -> int:
    """Run both parts; 0 if all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=2000, help="for the kills (default: %(default)s)")
    parser.add_argument(
        "--many-items", type=int, default=100_000, help="for the memory (default: %(default)s)"
    )
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": describe_machine()}
    with tempfile.TemporaryDirectory(prefix="batch-soak-") as folder:
        found["kills"] = soak(Path(folder), options.items, POISON, VICTIMS)
    with tempfile.TemporaryDirectory(prefix="batch-soak-") as folder:
        found["memory"] = measure_memory(Path(folder), options.many_items)
    held = found["kills"]["held"] and found["memory"]["held"]
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0 if held else 1


@dataclass(frozen=True)
class Pictures:
    """A folder of files.

    Args:
        folder: where they are.
        texts: their answers, by name.
        poison: what is wrong with some, by name.
    """

    folder: Path
    texts: dict[str, str]
    poison: dict[str, Poison]

    @property
    def server_flags(self) -> list[str]:
        """They make the server fail at the poisonous ones."""
        faults = [
            {"fault": kind, "count": None, "text": self.texts[name], "retry_after": None}
            for name, kind in self.poison.items()
            if kind != "no picture"
        ]
        return [f"--fault={json.dumps(fault)}" for fault in faults]


def draw(folder: Path, count: int, poison: Sequence[Poison]) -> Pictures:
    """So many files, each unlike the others."""
    rng = random.Random(SEED)
    kinds = dict(zip(rng.sample(range(count), len(poison)), poison, strict=True))
    pictures = Pictures(folder, {}, {})
    folder.mkdir(parents=True)
    for number in range(count):
        name, file = f"{number:06}.png", io.BytesIO()
        Image.frombytes("RGB", (16, 12), rng.randbytes(16 * 12 * 3)).save(file, "PNG")
        data = file.getvalue()
        if number in kinds:
            pictures.poison[name] = kinds[number]
            data = b"no picture" + data if kinds[number] == "no picture" else data
        (folder / name).write_bytes(data)
        pictures.texts[name] = text_of(data)
    return pictures


class Run:
    """A run of the command, with a server for itself, in as many processes as it takes.

    Args:
        folder: for its files; it is created.
        pictures: what is asked.
        concurrency: requests at a time.
    """

    def __init__(self, folder: Path, pictures: Pictures, concurrency: int = CONCURRENCY) -> None:
        folder.mkdir()
        self.folder = folder
        self.output = folder / "output"
        self.pictures = pictures
        self.asks: Counter[str] = Counter()  # of each file
        self.under_way: Counter[str] = Counter()  # times that each was under way when somebody was killed
        self._concurrency = concurrency

    def __enter__(self) -> Self:
        self.server = self._start_server(port=0)
        self.client = self._start_client()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.kill()
        self.client.wait()
        self.server.stop()

    def kill(self, victim: Victim, after: int) -> None:
        """Kill one of the two and start it again, once so many items are done."""
        self.wait_until_done(after)
        if victim == "client":
            self.client.kill()
            self.client.wait()
            self._note_what_is_under_way()
            self.client = self._start_client()
        else:
            self.server.fail("hang", count=None)  # so that it dies with requests under way
            while self.server.state["in_flight"] < self._concurrency // 2:
                time.sleep(_POLL_S)
            self._note_asks()
            self.server.process.kill()
            self.server.process.wait()
            self._note_what_is_under_way()
            self.server = self._start_server(self.server.port)

    def end(self) -> int:
        """Wait for the end; the exit code of the client."""
        code = self.client.wait()
        self._note_asks()
        return code

    def wait_until_done(self, count: int) -> int:
        """Return once at least so many items are done: how many there are.

        Raises:
            RuntimeError: the client has ended before.
        """
        query = "SELECT count(*) FROM items WHERE state = 'done'"
        while (done := next(self._read(query), (0,))[0]) < count:
            if self.client.poll() is not None:
                raise RuntimeError(f"the client ended early: {self._log_path.read_text()[-2000:]}")
            time.sleep(_POLL_S)
        return done

    @property
    def lines(self) -> list[bytes]:
        """Of its output, sorted."""
        return sorted((self.output / "results.jsonl").read_bytes().splitlines(keepends=True))

    @property
    def _log_path(self) -> Path:
        return self.folder / "client.log"

    def _start_server(self, port: int) -> AnsweringServer:
        server = AnsweringServer(self.folder, *self.pictures.server_flags, port=port)
        server.wait_until_ready()
        return server

    def _start_client(self) -> subprocess.Popen[bytes]:
        flags = ("--output", str(self.output), "--base-url", self.server.base_url)
        command = [sys.executable, "-m", "phi_vision", "batch", str(self.pictures.folder), *flags]
        command += ["--concurrency", str(self._concurrency)]
        with self._log_path.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=tie_to_parent)

    def _note_asks(self) -> None:
        names = {text: name for name, text in self.pictures.texts.items()}
        for text, times in self.server.asks.items():
            self.asks[names[text]] += times

    def _note_what_is_under_way(self) -> None:
        self.under_way.update(
            Path(key).name for (key,) in self._read("SELECT key FROM items WHERE state = 'asked'")
        )

    def _read(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Of the queue, as it is while the client works; nothing as long as there is none."""
        try:
            with closing(sqlite3.connect(f"file:{self.output}/run.sqlite?mode=ro", uri=True)) as database:
                yield from database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return


def soak(folder: Path, num_items: int, poison: Sequence[Poison], victims: Sequence[Victim]) -> dict[str, Any]:
    """An undisturbed run and one with kills: the figures of both, and whether they came to the same."""
    pictures = draw(folder / "pictures", num_items, poison)
    rng = random.Random(SEED)
    victims = rng.sample(victims, len(victims))
    after = sorted(rng.sample(range(num_items // 20, num_items * 19 // 20), len(victims)))
    undisturbed = _figures(folder / "undisturbed", pictures, [])
    disturbed = _figures(folder / "disturbed", pictures, list(zip(victims, after, strict=True)))
    return {
        "items": num_items,
        "poisonous": dict(Counter(poison)),
        "undisturbed": undisturbed,
        "disturbed": disturbed,
        "held": undisturbed["sha256"] == disturbed["sha256"]
        and disturbed["wrong"] == disturbed["asked_again_for_nothing"] == 0
        and undisturbed["wrong"] == undisturbed["asked_again"] == 0,
    }


def _figures(folder: Path, pictures: Pictures, kills: Sequence[Kill]) -> dict[str, Any]:
    started_s = time.monotonic()
    with Run(folder, pictures) as run:
        for victim, after in kills:
            run.kill(victim, after)
        exit_code = run.end()
    repeats = {name: times - 1 for name, times in run.asks.items() if name not in pictures.poison}
    lines = run.lines
    rows = {Path(row["key"]).name: row for row in map(json.loads, lines)}
    return {
        "kills": [f"{victim} after {after}" for victim, after in kills],
        "exit_code": exit_code,
        "seconds": round(time.monotonic() - started_s, 1),
        "lines": len(lines),
        "failed": dict(Counter(row["error"]["cause"] for row in rows.values() if row["error"])),
        "wrong": abs(len(lines) - len(pictures.texts))
        + sum(not _is_right(rows.get(name), pictures, name) for name in pictures.texts),
        "under_way_at_kills": run.under_way.total(),
        "asked_again": sum(repeats.values()),
        "asked_again_for_nothing": sum(
            max(0, times - run.under_way[name]) for name, times in repeats.items()
        ),
        "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
    }


def _is_right(row: dict[str, Any] | None, pictures: Pictures, name: str) -> bool:
    if row is None:
        return False
    if name in pictures.poison:
        return row["error"] is not None and row["text"] is None
    return row["error"] is None and row["text"] == pictures.texts[name]


def measure_memory(folder: Path, num_items: int) -> dict[str, Any]:
    """The resident memory of the client on its way through many items."""
    pictures = draw(folder / "pictures", num_items, ())
    started_s = time.monotonic()
    resident_bytes: dict[int, int] = {}  # by items done
    with Run(folder / "run", pictures, MANY_CONCURRENCY) as run:
        process = psutil.Process(run.client.pid)
        for sample in range(1, SAMPLES):
            done = run.wait_until_done(num_items * sample // SAMPLES)
            resident_bytes[done] = process.memory_info().rss
        exit_code = run.end()
    early = max(size for done, size in resident_bytes.items() if done <= num_items * 3 // SAMPLES)
    growth_bytes = max(resident_bytes.values()) - early
    return {
        "items": num_items,
        "exit_code": exit_code,
        "seconds": round(time.monotonic() - started_s, 1),
        "resident_mb": {done: round(size / 1e6, 1) for done, size in resident_bytes.items()},
        "growth_mb": round(growth_bytes / 1e6, 1),
        "held": exit_code == 0 and growth_bytes <= MAX_GROWTH_BYTES,
    }


if __name__ == "__main__":
    sys.exit(main())
