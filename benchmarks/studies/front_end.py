"""How many pictures a second does the front end receive and draw, and how much memory does it take?

    python -m benchmarks.studies.front_end --out FILE [--before FOLDER] [--quick]

The engine is stubbed out: requests with one picture each go through HTTP, decoding, the HD transform, the
prompt and vLLM's serialisation for its engine, and are answered with one token. Measured in one run: this
checkout with one and two API processes (`ours`), an older one (`before`, the checkout in FOLDER), and stock
vLLM with the float steps of the published image processor (`stock`). All run at once and are asked in turn,
round after round, so that a busy moment of the machine does not fall upon one alone. Client, server and
workers share the cores.

The ideal is workers / (processor seconds to decode and resize one picture), for a server whose other work
costs nothing. `predicted_per_s` is what `phi_vision.planning.front_end` reckons, from the costs of the first
front end in the same round: the lowest of what the workers draw, the API processes receive, and all cores do
for both and for the client.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_vision.cores import count_cores
from phi_vision.media.worker_process import KEPT_MEMORY

from benchmarks.harness.machine import describe_machine
from benchmarks.studies._front_end_launch import FrontEnd, Measured, Setting, measure, running
from benchmarks.studies._front_end_requests import Requests, draw, post_all
from benchmarks.studies._front_end_server import NUM_CROPS

PICTURES = {  # name -> (width, height, format)
    "800x600 JPEG": (800, 600, "JPEG"),
    "1240x1754 PNG": (1240, 1754, "PNG"),
    "4000x3000 JPEG": (4000, 3000, "JPEG"),
}
LARGE = (8000, 6250, "JPEG")  # 50 megapixels
SAMPLE_INTERVAL_S = 0.01


def seconds_a_picture(data: bytes) -> float:
    """Processor time to decode and resize, in a process that keeps its memory as a picture worker does."""
    command = [sys.executable, "-m", "benchmarks.studies._draw_seconds"]
    done = subprocess.run(
        command, input=data, stdout=subprocess.PIPE, env={**os.environ, **KEPT_MEMORY}, check=True
    )
    return float(done.stdout)


def measure_speed(
    settings: Sequence[Setting], pictures: Sequence[str], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """One row for each front end and picture; medians of all rounds."""
    files = {name: draw(*PICTURES[name]) for name in pictures}
    ideal_s: dict[str, list[float]] = {name: [] for name in files}
    found: dict[tuple[Setting, str], list[Measured]] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for setting in settings:
            _say(f"starting {_name(setting)}")
            servers[setting] = stack.enter_context(running(setting))
        for turn, (name, data) in itertools.product(range(rounds), files.items()):
            ideal_s[name].append(seconds_a_picture(data))
            for setting, server in servers.items():
                rows = found.setdefault((setting, name), [])
                rows.append(_measured(server, setting, Requests(data), seconds))
                _say(f"round {turn + 1}  {_name(setting):40} {name:15} {rows[-1].pictures_per_s:8.1f}/s")
    return [
        _row(setting, name, rows, found[settings[0], name], ideal_s[name], len(files[name]))
        for (setting, name), rows in found.items()
    ]


def predicted_per_s(setting: Setting, cost: Measured) -> float:
    """Pictures a second of a front end, by what one costs."""
    processes, workers = setting.api_processes, setting.api_processes * setting.workers
    on_all_cores_ms = (cost.worker_ms + cost.api_ms + cost.client_ms) / count_cores()
    return 1000 / max(cost.worker_ms / workers, cost.api_ms / processes, on_all_cores_ms)


def measure_memory(count: int, workers: int) -> dict[str, Any]:
    """Peak memory while `count` pictures of 50 megapixels are there at once."""
    import psutil

    data = draw(*LARGE)
    _say(f"memory of {count} pictures of 50 megapixels ({len(data) / 1e6:.1f} MB) at once")
    with running(Setting("ours", workers=workers)) as server:
        post_all(server.port, Requests(draw(*PICTURES["800x600 JPEG"])), 4, 4)
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        peaks = {"server": 0, "all": 0}
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLE_INTERVAL_S):
                own = total = process.memory_info().rss
                for child in process.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        total += child.memory_info().rss
                peaks["server"], peaks["all"] = max(peaks["server"], own), max(peaks["all"], total)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            elapsed_s = post_all(server.port, Requests(data), count, count)
        finally:
            stop.set()
            sampler.join()
    return {
        "pictures": count,
        "workers": workers,
        "before_mb": round(before / 1e6),
        "server_growth_mb": round((peaks["server"] - before) / 1e6),
        "with_workers_peak_mb": round(peaks["all"] / 1e6),
        "seconds": round(elapsed_s, 1),
    }


def _measured(server: FrontEnd, setting: Setting, requests: Requests, seconds: float) -> Measured:
    """As many requests as take so long, by a few that come first."""
    concurrency = 4 * setting.api_processes * setting.workers
    first = measure(server, requests, 2 * concurrency, concurrency)
    return measure(server, requests, max(16, round(seconds * first.pictures_per_s)), concurrency)


def _row(
    setting: Setting,
    picture: str,
    rows: Sequence[Measured],
    reference: Sequence[Measured],
    ideal_s: Sequence[float],
    file_bytes: int,
) -> dict[str, Any]:
    rates = [row.pictures_per_s for row in rows]
    workers = setting.api_processes * setting.workers
    row = {
        "front_end": setting.variant,
        "api_processes": setting.api_processes,
        "workers": setting.workers,  # of each
        "picture": picture,
        "file_bytes": file_bytes,
        "pictures_per_s": round(statistics.median(rates), 2),
        "rounds_per_s": [round(rate, 2) for rate in rates],
        "server_cpu_ms": round(statistics.median(row.api_ms for row in rows), 2),
        "worker_cpu_ms": round(statistics.median(row.worker_ms for row in rows), 2),
        "client_cpu_ms": round(statistics.median(row.client_ms for row in rows), 2),
        "ideal_per_s": round(workers / statistics.median(ideal_s), 2),
        "share_of_ideal": round(statistics.median(_shares(rates, [workers / each for each in ideal_s])), 3),
    }
    if setting.variant == "ours":
        predicted = [predicted_per_s(setting, cost) for cost in reference]
        row["predicted_per_s"] = round(statistics.median(predicted), 2)
        row["shares_of_predicted"] = [round(share, 3) for share in _shares(rates, predicted)]
    return row


def _shares(rates: Sequence[float], of: Sequence[float]) -> list[float]:
    return [rate / whole for rate, whole in zip(rates, of, strict=True)]


def _name(setting: Setting) -> str:
    return f"{setting.variant}, {setting.api_processes} API processes x {setting.workers} workers"


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="checkout of the state before")
    parser.add_argument("--pictures", nargs="+", default=list(PICTURES), choices=list(PICTURES))
    parser.add_argument("--only", nargs="+", choices=("ours", "before", "stock"), help="front ends")
    parser.add_argument(
        "--most", type=int, default=2, metavar="N", help="API processes, and workers of each (default: 2)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3, help="of each row and round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--large-pictures", type=int, default=32, metavar="N", help="of 50 megapixels at once; 0: skip that"
    )
    parser.add_argument("--quick", action="store_true", help="one of all, for a second, no memory")
    options = parser.parse_args()
    if options.quick:
        options.most, options.pictures = 1, options.pictures[:1]
        options.seconds, options.rounds, options.large_pictures = 1, 1, 0
    numbers = range(1, options.most + 1)
    settings = [Setting("ours", api_processes=a, workers=w) for a in numbers for w in numbers]
    if options.before:
        settings += [Setting("before", options.before.resolve(), workers=w) for w in numbers]
    settings += [Setting("stock", workers=w) for w in numbers]
    settings = [each for each in settings if each.variant in (options.only or each.variant)]
    result: dict[str, Any] = {
        "machine": describe_machine() | {"load_average": os.getloadavg()[0]},
        "seconds": options.seconds,
        "rounds": options.rounds,
        "num_crops": NUM_CROPS,
    }
    result["speed"] = measure_speed(settings, options.pictures, options.seconds, options.rounds)
    if options.large_pictures:
        result["memory"] = measure_memory(options.large_pictures, options.most)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    for row in result["speed"]:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
