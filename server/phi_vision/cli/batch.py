"""`phi-vision batch`: one task on many files, or the requests of OpenAI batch files, through many servers.

The queue in DIR is the truth of a run (`batch.queue`). This module puts the items into it, has them asked,
and writes what is made from it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from phi_vision.batch import tables
from phi_vision.batch.asking import asking
from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.inputs import Files, batch_lines, kind_of
from phi_vision.batch.output import FORMATS, write_responses, write_results
from phi_vision.batch.pages import Pages
from phi_vision.batch.progress import ProgressBar, ProgressLines, Rates
from phi_vision.batch.queue import Queue
from phi_vision.batch.report import write_report
from phi_vision.batch.run_settings import Question, RunSettings
from phi_vision.batch.runner import Progress, run
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Counts, Item, Record, TryLater
from phi_vision.cli.batch_on_ray import OnRay, on_cluster
from phi_vision.cli.servers import Found, find_servers
from phi_vision.cli.terminal import exit_on_signals, on_signals, print_passing, print_status, stop_signals
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.planning.hardware import find_device
from phi_vision.spec import PHI_3_5_VISION

_FETCHED = "fetched"  # documents that are named by their address, until all is done
_SHOWN_EVERY = 100  # items that are found


def batch(options: argparse.Namespace) -> int:
    """Run the command with parsed `options` (see `cli`).

    Returns:
        The exit code: 0 all is done, 1 some failed or still wait, 128 and its number after a signal.

    Raises:
        UsageError: anything that the user can mend, in one line.
        PhiVisionError: the run cannot go on; what is done is kept.
    """
    if options.device != "auto" and options.ray is None:
        find_device(options.device)
    formats = list(dict.fromkeys(name for names in options.format or [[FORMATS[0]]] for name in names))
    if "parquet" in formats:
        tables.pyarrow_parquet()
    folder, stdout = Path(options.output), sys.stdout
    names = [os.path.expanduser(name) for name in options.input]
    kind = kind_of(names) if names else None
    if options.column and kind != "files":
        raise UsageError("--column is for .csv and .parquet files")
    if kind == "files":
        Files(names, options.column, folder, folder).check()
    question = Question(options.task, options.prompt, _schema(options.schema))
    _make(folder)
    with exit_on_signals(), Queue(folder / "run.sqlite") as queue:
        settings = RunSettings.agreed(queue.settings, kind, question, os.getcwd(), str(folder))
        if settings.kind == "lines" and formats != [FORMATS[0]]:
            raise UsageError("the answers to an OpenAI batch file are written as jsonl only")
        fetched = folder / _FETCHED
        with contextlib.closing(Pages(fetched)) as pages, on_cluster(options, fetched) as ray:
            command = _Batch(options, folder, names, formats, queue, pages, settings, ray)
            try:
                code, summary = command.run()
            except (KeyboardInterrupt, SystemExit):
                print_status("stopped; run the same command again to go on")
                raise
            # Before Ray is left: on a busy machine that was seen to end the process, with code 1 and no word.
            print(json.dumps(summary), file=stdout, flush=True)
    return code


class _Batch:
    """A call of the command, its options checked and its queue open."""

    def __init__(
        self,
        options: argparse.Namespace,
        folder: Path,
        names: list[str],
        formats: list[str],
        queue: Queue,
        pages: Pages,
        settings: RunSettings,
        ray: OnRay | None,
    ) -> None:
        self._options = options
        self._folder = folder
        self._names = names
        self._formats = formats
        self._queue = queue
        self._pages = pages
        self._settings = settings
        self._ray = ray
        self._rates = Rates()

    def run(self) -> tuple[int, dict[str, Any]]:
        """The exit code, and what there is to say about the run."""
        self._list()
        if self._options.retry_failed:
            self._queue.retry_failed()
        number = None
        if self._queue.counts()["waiting"]:
            try:
                number = self._ask()
            except PhiVisionError:
                with contextlib.suppress(PhiVisionError):  # it may be the disk that is full
                    self._write()
                raise
        if number is not None:
            print_status("stopped; the results so far are being written; run the same command again to go on")
        summary = self._write()
        if number is not None:
            return 128 + number, summary
        if summary["done"] < summary["items"]:
            return 1, summary
        shutil.rmtree(self._folder / _FETCHED, ignore_errors=True)
        return 0, summary

    def _list(self) -> None:
        """Put what was named into the queue."""
        if self._names:
            self._keep(is_listed=False)
            files = Files(self._names, self._options.column, Path(self._settings.base), self._folder)
            if self._settings.kind == "lines":
                items = batch_lines(self._names)
            elif self._ray:
                items = self._ray.items(files)
            else:
                items = files.items(self._pages)
            self._queue.add(_shown(items))
            self._keep(is_listed=True)
        if not sum(self._queue.counts().values()):
            raise UsageError("there is no picture and no document in what was named")

    def _keep(self, **changes: Any) -> None:
        self._settings = replace(self._settings, **changes)
        self._queue.set_settings(self._settings.as_json())

    def _ask(self) -> int | None:
        """Have all asked that waits; the number of the signal that ended it early, if one did."""
        if self._ray:
            with self._shown() as show:
                return self._ray.ask(self._queue, self._settings.question, show)
        with find_servers(self._options.base_url or (), self._options.device) as found:
            return asyncio.run(self._ask_servers(found))

    async def _ask_servers(self, found: Found) -> int | None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        numbers: list[int] = []

        def on_signal(number: int, _: Any) -> None:
            numbers.append(number)
            loop.call_soon_threadsafe(stop.set)

        concurrency = self._options.concurrency
        limit = ConcurrencyLimit.auto() if concurrency is None else ConcurrencyLimit(concurrency)
        async with asking(self._settings.question, Servers(found.endpoints), self._pages) as ask:
            await ask.check()

            async def ask_and_look(item: Item) -> Mapping[str, Any]:
                try:
                    return await ask(item)
                except TryLater:
                    if found.own is not None:
                        found.own.check_running()  # nobody starts it again
                    raise

            with self._shown() as show, on_signals(stop_signals(), on_signal):
                await run(
                    self._queue,
                    ask_and_look,
                    limit,
                    max_errors=self._options.max_errors,
                    on_change=show,
                    stop=stop,
                )
        return numbers[0] if numbers else None

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[Progress], None]]:
        """Takes the progress of a run that begins now."""
        self._rates = Rates()
        with contextlib.closing(_Progress(self._settings.unit, self._queue.counts(), self._rates)) as shown:
            yield shown.show

    def _write(self) -> dict[str, Any]:
        """Write all that is made from the queue; what there is to say about the run."""
        rates = self._rates
        self._keep(
            seconds=self._settings.seconds + rates.seconds,
            num_ended=self._settings.num_ended + rates.num_ended,
        )
        records = self._queue.records("done", "failed")
        if self._settings.kind == "files":
            files = write_results(self._folder, records, self._formats)
        else:
            files = write_responses(self._folder, records)
        counts, seconds = self._queue.counts(), self._settings.seconds
        per_second = self._settings.num_ended / seconds if seconds else None
        summary = {
            "items": sum(counts.values()),
            "done": counts["done"],
            "failed": counts["failed"],
            "waiting": counts["waiting"],
            "seconds": round(seconds, 1),
            f"{self._settings.unit}_per_s": None if per_second is None else round(per_second, 2),
        }
        report = write_report(self._folder, self._queue.records(), summary | asdict(self._settings.question))
        return summary | {"files": [str(path) for path in [*files, report]]}


class _Progress:
    """What the terminal or the log sees of a run."""

    def __init__(self, unit: str, counts: Counts, rates: Rates) -> None:
        self._rates = rates
        self._is_demo = False
        self._display: ProgressBar | ProgressLines = (
            ProgressBar(unit, counts, rates, sys.stderr)
            if sys.stderr.isatty()
            else ProgressLines(unit, rates, print_status)
        )

    def show(self, progress: Progress) -> None:
        self._rates.add(progress)
        if not self._is_demo and any(map(_is_of_demo, progress.ended)):
            self._is_demo = True
            self._display.note(
                "answered by the DEMO model: it reads printed capitals and names plain shapes, nothing else"
            )
        self._display.show(progress)

    def close(self) -> None:
        self._display.close()


def _is_of_demo(record: Record) -> bool:
    result = record.result or {}
    model = result.get("model") or result.get("body", {}).get("model")
    return isinstance(model, str) and model.startswith(PHI_3_5_VISION.demo_name)


def _shown(items: Iterable[Item]) -> Iterator[Item]:
    """The same, counted on a terminal: to open many documents takes a while."""
    number = 0
    for number, item in enumerate(items, 1):
        if number % _SHOWN_EVERY == 0:
            print_passing(f"{number:,} found")
        yield item
    if number >= _SHOWN_EVERY:
        print_status(f"{number:,} found")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {one_line(str(folder))}: {error.strerror}") from error


def _schema(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    try:
        schema = json.loads(Path(name).read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {one_line(name)}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--schema: {one_line(name)} is not JSON: {one_line(str(error))}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"--schema: {one_line(name)} is not a JSON object")
    return schema
