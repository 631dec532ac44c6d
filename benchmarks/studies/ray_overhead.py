"""What does a Ray cluster cost over the plain client of `batch`, and what takes a page on its way?

    python -m benchmarks.studies.ray_overhead --out FILE [--pages N N]

Documents of ten scanned pages are asked of one and of two servers that stand in for ours
(`tests/support/answering_server.py`): each answers so many requests at once and takes the same time for each,
so that a client which keeps up gets a known rate. Rates are taken between a short and a long run; what the
short one takes beyond its pages is the start. Then each step of a page is timed by itself, without a cluster:
processor time of this process and its workers. Client, cluster and servers share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from phi_vision.batch.on_ray import outcomes
from phi_vision.batch.on_ray.job import ROWS_OF_A_TASK, settle_rows, take_rows
from phi_vision.batch.on_ray.stages import AskItems, AskSettings, Row, count_pages, read_page
from phi_vision.batch.output import write_results
from phi_vision.batch.queue import Queue
from phi_vision.batch.run_settings import Question
from phi_vision.batch.work import Item
from phi_vision.client.exchange import Endpoint

from benchmarks.harness.machine import describe_machine
from benchmarks.studies.pdf_pages import PAGES, scan, seconds_a_page
from tests.support.answering_server import AnsweringServer
from tests.support.ray_cluster import running_cluster

SLOTS = 8
ANSWER_S = 0.4
CONCURRENCY = 2 * SLOTS  # requests at a time for each server: it is never without one
WORDS = 400  # of a page in the queue
ITEMS = 4096  # in the queue


def main() -> int:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the JSON goes")
    parser.add_argument(
        "--pages",
        type=int,
        nargs=2,
        default=(80, 240),
        metavar="N",
        help="of the short and the long run, with one server; twice as many with two (default: 80 240)",
    )
    options = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="ray-overhead-") as folder:
        document = Path(folder, "a.pdf")
        document.write_bytes(scan())
        result = {
            "machine": machine,
            "answer_s": ANSWER_S,
            "slots": SLOTS,
            "speed": speed(document, options.pages),
            "page": asyncio.run(steps(document)),
            "queue": queue_steps(Path(folder)),
        }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def speed(document: Path, pages: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each client and number of servers."""
    rows = []
    with running_cluster() as address:
        for num_servers in (1, 2):
            clients: dict[str, tuple[str, ...]] = {"plain": (), "ray": ("--ray", address)}
            for client, flags in clients.items():
                short, long = (run(document, num_servers, num_servers * each, *flags) for each in pages)
                count = num_servers * (pages[1] - pages[0])
                rate = count / (long["seconds"] - short["seconds"])
                rows.append(
                    {
                        "client": client,
                        "servers": num_servers,
                        "pages": [num_servers * each for each in pages],
                        "seconds": [round(each["seconds"], 2) for each in (short, long)],
                        "pages_per_s": round(rate, 2),
                        "share_of_ideal": round(rate / (num_servers * SLOTS / ANSWER_S), 3),
                        "start_s": round(short["seconds"] - num_servers * pages[0] / rate, 2),
                        # Of the process that was started; a cluster's are not among it.
                        "command_cpu_ms": round(1000 * (long["cpu_s"] - short["cpu_s"]) / count, 2),
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def run(document: Path, num_servers: int, num_pages: int, *flags: str) -> dict[str, float]:
    """One run of the command from its start to its end: `seconds` and `cpu_s`."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-overhead-")))
        slow = ("--slots", str(SLOTS), "--seconds", str(ANSWER_S))
        servers = [stack.enter_context(AnsweringServer(folder, *slow)) for _ in range(num_servers)]
        for server in servers:
            server.wait_until_ready()
        (folder / "scans").mkdir()
        for number in range(num_pages // PAGES):
            (folder / "scans" / f"{number:04}.pdf").symlink_to(document)
        named = [part for server in servers for part in ("--base-url", server.base_url)]
        concurrency = CONCURRENCY if flags else CONCURRENCY * num_servers
        command = [sys.executable, "-m", "phi_vision", "batch", "scans", "--output", "out", *named, *flags]
        start = time.monotonic()
        with subprocess.Popen(
            [*command, "--concurrency", str(concurrency)], cwd=folder, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            summary = json.loads(process.stdout.read())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0 and summary["done"] == num_pages, summary
        return {"seconds": time.monotonic() - start, "cpu_s": usage.ru_utime + usage.ru_stime}


async def steps(document: Path) -> dict[str, Any]:
    """Processor time of a page at each step, and the bytes that travel."""
    fetched = str(document.parent / "fetched")
    rows: list[Row] = [
        {"number": page, "attempts": 0, "request": json.dumps(request), "outcome": ""}
        for page in range(PAGES)
        for request in [{"source": str(document), "page": page + 1, "pages": PAGES}]
    ]

    def read_all() -> list[Row]:  # tasks have no event loop of their own
        return [read_page(row, fetched) for row in rows]

    def count() -> Row:
        return count_pages({"source": json.dumps(str(document))}, fetched)

    count_ms, _ = await asyncio.to_thread(cpu_ms, count)
    read_ms, read = await asyncio.to_thread(cpu_ms, read_all)
    with AnsweringServer(document.parent) as server:
        server.wait_until_ready()
        ask = AskItems(AskSettings(Question("ocr"), CONCURRENCY, [Endpoint(server.base_url)], "cpu"))
        times = []
        for _ in range(4):  # the first one connects
            before = time.process_time()
            await asyncio.gather(*map(ask, read))
            times.append(1000 * (time.process_time() - before) / PAGES)
    return {
        "document_pages": PAGES,
        "file_bytes": document.stat().st_size // PAGES,
        "request_bytes": statistics.mean(len(row["request"]) for row in read),
        "count_cpu_ms": round(count_ms / PAGES, 2),
        "read_cpu_ms": round(read_ms / PAGES, 2),
        "ask_cpu_ms": round(statistics.median(times[1:]), 2),
        "canvas_cpu_ms": round(1000 * seconds_a_page(document.read_bytes()), 2),
    }


def cpu_ms(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Processor time of this process and its children, median; what came out. The first time warms up."""
    times = []
    for _ in range(repeats + 1):
        before = _cpu_s()
        result = work()
        times.append(1000 * (_cpu_s() - before))
    return statistics.median(times[1:]), result


def _cpu_s() -> float:
    this = psutil.Process()
    used = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in used)


def queue_steps(folder: Path) -> dict[str, Any]:
    """Wall time of an item in the queue and in the files at the end, and its bytes there."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 10))) for _ in range(20_000)]
    found: dict[str, Any] = {"items": ITEMS, "words": WORDS}
    with Queue(folder / "run.sqlite") as queue:
        start = time.perf_counter()
        queue.add(
            Item(f"scans/{n:08}.pdf#1", {"source": f"/scans/{n:08}.pdf", "page": 1, "pages": 1})
            for n in range(ITEMS)
        )
        rows = take_rows(queue)
        found["list_ms"] = round(1000 * (time.perf_counter() - start) / ITEMS, 3)
        for row in rows:
            row["outcome"] = outcomes.encoded(_page(rng, words))
        start = time.perf_counter()
        for first in range(0, ITEMS, ROWS_OF_A_TASK):
            settle_rows(queue, rows[first : first + ROWS_OF_A_TASK])
        found["settle_ms"] = round(1000 * (time.perf_counter() - start) / ITEMS, 3)
        for name in ("jsonl", "parquet"):
            start = time.perf_counter()
            [path] = write_results(folder, queue.records("done"), [name])
            found[f"{name}_ms"] = round(1000 * (time.perf_counter() - start) / ITEMS, 3)
            found[f"{name}_bytes"] = path.stat().st_size // ITEMS
    found["queue_bytes"] = (folder / "run.sqlite").stat().st_size // ITEMS
    return found


def _page(rng: random.Random, words: Sequence[str]) -> dict[str, Any]:
    """The result of a page of text with the confidence of each word."""
    text = ""
    found: list[list[Any]] = []
    for word in rng.choices(words, k=WORDS):
        found.append([word, round(rng.uniform(0.5, 1), 6), len(text)])
        text += f"{word} "
    return {
        "text": text,
        "status": "complete",
        "model": "phi-3.5-vision",
        "confidence": 0.75,
        "words": found,
        "usage": {"prompt_tokens": 2500, "completion_tokens": 2 * WORDS},
        "rotation": 0,
        "tiles": 1,
        "attempts": [],
        "server": "http://10.0.0.1:8000/v1",
        "seconds": 4.5,
    }


if __name__ == "__main__":
    sys.exit(main())
