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
_SPACE = 2 * CONCURRENCY  # files between two kills
_POLL_S = 0.02

Poison = Literal["no picture", "500", "drop"]
POISON: tuple[Poison, ...] = ("no picture",) * 4 + ("500",) * 3 + ("drop",) * 3
Victim = Literal["client", "server"]
VICTIMS: tuple[Victim, ...] = ("client",) * 5 + ("server",) * 2


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


@dataclass(frozen=True)
class Kill:
    """When somebody is killed.

    Args:
        victim: who.
        number: of the file at which the server begins to hang until then, so that the run cannot be over.
        early: the client is killed so many items before that.
    """

    victim: Victim
    number: int
    early: int = 0


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
        kills: to come, by number.
    """

    def __init__(
        self,
        folder: Path,
        pictures: Pictures,
        concurrency: int = CONCURRENCY,
        kills: Sequence[Kill] = (),
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.output = folder / "output"
        self.pictures = pictures
        self.asks: Counter[str] = Counter()  # of each file
        self.under_way: Counter[str] = Counter()  # times that each was under way when somebody was killed
        self._concurrency = concurrency
        self._kills = list(kills)

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

    def kill_next(self) -> None:
        """Kill one of the two at its time, and start it again."""
        kill = self._kills[0]
        if kill.victim == "client":
            self.wait_until_ended(kill.number - kill.early)
            self.client.kill()
            self.client.wait()
        else:
            while self.server.state["in_flight"] < self._concurrency // 2:
                time.sleep(_POLL_S)
            self._note_asks()
            self.server.process.kill()
            self.server.process.wait()
        self._note_what_is_under_way()
        del self._kills[0]
        if kill.victim == "client":
            self.server.mend()
            for fault in self._faults:
                self.server.fail(**fault)
            self.client = self._start_client()
        else:
            self.server = self._start_server(self.server.port)

    def end(self) -> int:
        """Wait for the end; the exit code of the client."""
        code = self.client.wait()
        self._note_asks()
        return code

    def wait_until_ended(self, count: int) -> int:
        """Return once at least so many items are done or have failed: how many those are.

        Raises:
            RuntimeError: the client has ended before.
        """
        query = "SELECT count(*) FROM items WHERE state IN ('done', 'failed')"
        while (ended := next(self._read(query), (0,))[0]) < count:
            if self.client.poll() is not None:
                raise RuntimeError(f"the client ended early: {self._log_path.read_text()[-2000:]}")
            time.sleep(_POLL_S)
        return ended

    @property
    def lines(self) -> list[bytes]:
        """Of its output, sorted."""
        return sorted((self.output / "results.jsonl").read_bytes().splitlines(keepends=True))

    @property
    def _faults(self) -> list[dict[str, Any]]:
        """What the server is to do: fail at the poisonous files, and hang where somebody is to be killed."""
        kinds: list[tuple[str, str]] = [
            (name, kind) for name, kind in self.pictures.poison.items() if kind != "no picture"
        ]
        names = list(self.pictures.texts)
        for kill in self._kills:
            kinds += [(name, "hang") for name in names[kill.number : kill.number + self._concurrency]]
        return [
            {"fault": kind, "count": None, "text": self.pictures.texts[name], "retry_after": None}
            for name, kind in kinds
        ]

    @property
    def _log_path(self) -> Path:
        return self.folder / "client.log"

    def _start_server(self, port: int) -> AnsweringServer:
        flags = (f"--fault={json.dumps(fault)}" for fault in self._faults)
        server = AnsweringServer(self.folder, *flags, port=port)
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
    numbers = sorted(rng.sample(range(_SPACE, num_items - _SPACE, _SPACE), len(victims)))
    kills = [
        Kill(victim, number, rng.randrange(len(poison), _SPACE))  # what failed once waits behind the others
        for victim, number in zip(rng.sample(victims, len(victims)), numbers, strict=True)
    ]
    undisturbed = _figures(folder / "undisturbed", pictures, [])
    disturbed = _figures(folder / "disturbed", pictures, kills)
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
    with Run(folder, pictures, kills=kills) as run:
        for _ in kills:
            run.kill_next()
        exit_code = run.end()
    repeats = {name: times - 1 for name, times in run.asks.items() if name not in pictures.poison}
    lines = run.lines
    rows = {Path(row["key"]).name: row for row in map(json.loads, lines)}
    return {
        "kills": [f"{kill.victim} at {kill.number - kill.early}" for kill in kills],
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
            done = run.wait_until_ended(num_items * sample // SAMPLES)
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
