"""How many pictures a second does the front end prepare, and how much memory does it take?

    python -m benchmarks.studies.front_end --out FILE [--before FOLDER] [--quick]

The engine is stubbed out: requests with one picture each go through HTTP, decoding, the HD transform, the
prompt and vLLM's serialisation for its engine, and are answered with one token. Measured in one run: this
checkout (`ours`), an older one (`before`, the checkout in FOLDER), and stock vLLM with the float steps of the
published image processor (`stock`). The ideal is workers / (processor seconds to decode and resize one
picture), for a server whose other work costs nothing. Client, server and workers share the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_vision.client.process import ServerProcess, ServerStartError

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.servers import free_port
from benchmarks.studies import _front_end_server
from benchmarks.studies._front_end_requests import Requests, draw, post_all
from benchmarks.studies._front_end_server import NUM_CROPS, ROOT

WORKERS = (1, 2, 4)
PICTURES = {  # name -> (width, height, format)
    "800x600 JPEG": (800, 600, "JPEG"),
    "1240x1754 PNG": (1240, 1754, "PNG"),
    "4000x3000 JPEG": (4000, 3000, "JPEG"),
}
LARGE = (8000, 6250, "JPEG")  # 50 megapixels
SAMPLE_INTERVAL_S = 0.01


class FrontEnd(ServerProcess):
    """A front end in a process of its own, with the code and the plugins of a checkout."""

    def __init__(self, variant: str, checkout: Path, workers: int, folder: Path) -> None:
        port = free_port()
        paths = [_entry_points(checkout, folder / "installed"), checkout / "server"]
        env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        if variant == "stock":
            paths += [ROOT, ROOT / "benchmarks" / "vllm_plugins"]
            env |= {"VLLM_PLUGINS": "benchmark_stock_model", "VLLM_MEDIA_LOADING_THREAD_COUNT": str(workers)}
        env["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        command = [sys.executable, _front_end_server.__file__, variant, str(workers), str(folder), str(port)]
        super().__init__(command, folder / "log.txt", env=env, port=port, ready_path="/health")


@contextlib.contextmanager
def running(variant: str, checkout: Path, workers: int) -> Iterator[FrontEnd]:
    """A front end that answers."""
    with (
        tempfile.TemporaryDirectory(prefix="front-end-") as folder,
        FrontEnd(variant, checkout, workers, Path(folder)) as server,
    ):
        server.wait_until_ready()
        yield server


def _entry_points(checkout: Path, folder: Path) -> Path:
    """A folder that has vLLM load the plugins of this checkout, whatever the environment has installed."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    metadata = folder / f"phi_vision-{project.get('version', '0')}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: phi-vision\nVersion: {project.get('version', '0')}\n"
    )
    groups = project["entry-points"].items()
    (metadata / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in targets.items())
            for group, targets in groups
        )
    )
    return folder


def seconds_a_picture(data: bytes, repeats: int) -> float:
    """Processor time to decode and resize here, which others on the machine hardly change: the median."""
    from phi_vision.media.decode import PictureLimits, decode
    from phi_vision.model.canvas import draw_canvas

    times = []
    for _ in range(repeats):
        start = time.thread_time()
        draw_canvas(decode(data, PictureLimits(100_000_000)), NUM_CROPS)
        times.append(time.thread_time() - start)
    return statistics.median(times)


def measure_speed(
    variants: dict[str, Path], pictures: Sequence[str], workers: Sequence[int], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """One row for each front end, number of workers and picture; the best of all rounds."""
    files = {name: draw(*PICTURES[name]) for name in pictures}
    ideal_s = {name: seconds_a_picture(data, 7) for name, data in files.items()}
    rows = []
    for number, (variant, checkout) in itertools.product(workers, variants.items()):
        _say(f"{variant}, {number} workers: starting")
        try:
            with running(variant, checkout, number) as server:
                for name, data in files.items():
                    count = max(8 * number, round(seconds * number / ideal_s[name]))
                    rates, cpu_ms = measure_rates(server, Requests(data), count, 4 * number, rounds)
                    ideal = number / ideal_s[name]
                    rows.append(
                        {
                            "front_end": variant,
                            "workers": number,
                            "picture": name,
                            "file_bytes": len(data),
                            "requests": count,
                            "pictures_per_s": round(max(rates), 2),
                            "rounds_per_s": [round(rate, 2) for rate in rates],
                            "server_cpu_ms": round(cpu_ms, 2),  # a picture, without the workers
                            "ideal_per_s": round(ideal, 2),
                            "share_of_ideal": round(max(rates) / ideal, 3),
                        }
                    )
                    share = f"{max(rates) / ideal:6.1%} of the ideal"
                    _say(f"{variant:7} {number} workers {name:15} {max(rates):8.1f}/s  {share}")
        except (ServerStartError, RuntimeError, OSError, http.client.HTTPException) as error:
            _say(f"{variant}, {number} workers: {error}")
            rows.append({"front_end": variant, "workers": number, "failure": str(error)[-1000:]})
    return rows


def measure_rates(
    server: FrontEnd, requests: Requests, count: int, concurrency: int, rounds: int
) -> tuple[list[float], float]:
    """Pictures a second in each round, and the server's own processor time in ms a picture.

    One more round comes first, to start the workers and fill the caches.
    """
    import psutil

    post_all(server.port, requests, concurrency, concurrency)
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    rates = [count / post_all(server.port, requests, count, concurrency) for _ in range(rounds)]
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return rates, 1000 * cpu_s / (count * rounds)


def measure_memory(variants: dict[str, Path], count: int, workers: int) -> list[dict[str, Any]]:
    """Peak memory while `count` pictures of 50 megapixels are there at once."""
    import psutil

    data = draw(*LARGE)
    rows = []
    for variant, checkout in variants.items():
        _say(f"{variant}: memory of {count} pictures of 50 megapixels ({len(data) / 1e6:.1f} MB) at once")
        with running(variant, checkout, workers) as server:
            post_all(server.port, Requests(draw(*PICTURES["800x600 JPEG"])), 4, 4)
            process = psutil.Process(server.process.pid)
            before = process.memory_info().rss
            peaks = {"server": 0, "all": 0}
            stop = threading.Event()

            def sample(process: Any = process, peaks: dict[str, int] = peaks, stop: Any = stop) -> None:
                while not stop.wait(SAMPLE_INTERVAL_S):
                    own = process.memory_info().rss
                    total = own
                    for child in process.children(recursive=True):
                        with contextlib.suppress(psutil.Error):
                            total += child.memory_info().rss
                    peaks["server"], peaks["all"] = max(peaks["server"], own), max(peaks["all"], total)

            sampler = threading.Thread(target=sample)
            sampler.start()
            failure = None
            try:
                elapsed = post_all(server.port, Requests(data), count, count)
            except (RuntimeError, OSError) as error:
                elapsed, failure = None, str(error)
            stop.set()
            sampler.join()
            rows.append(
                {
                    "front_end": variant,
                    "pictures": count,
                    "workers": workers,
                    "before_mb": round(before / 1e6),
                    "server_peak_mb": round(peaks["server"] / 1e6),
                    "server_growth_mb": round((peaks["server"] - before) / 1e6),
                    "with_workers_peak_mb": round(peaks["all"] / 1e6),
                    "seconds": None if elapsed is None else round(elapsed, 1),
                    "failure": failure,
                }
            )
            _say(f"{variant:7} the server grew by {rows[-1]['server_growth_mb']} MB")
    return rows


def measure_transfer(repeats: int = 50) -> dict[str, float]:
    """Milliseconds to bring a 16-crop canvas from another process, through shared memory and a pipe."""
    import numpy as np

    nbytes = NUM_CROPS * 336 * 336 * 3
    plane = bytes(nbytes // 3)
    memory = os.memfd_create("canvas")

    def shared() -> None:
        for i in range(3):
            os.pwrite(memory, plane, i * len(plane))
        os.preadv(memory, [np.empty(nbytes, np.uint8).data], 0)

    child = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            f"import sys; p = bytes({len(plane)})\nwhile sys.stdin.buffer.read(1):\n"
            " for _ in range(3): sys.stdout.buffer.write(p)\n sys.stdout.buffer.flush()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=-1,
        pipesize=1 << 20,
    )
    assert child.stdin is not None and child.stdout is not None
    requests, answers = child.stdin, child.stdout

    def piped() -> None:
        requests.write(b"x")
        requests.flush()
        answers.read(nbytes)

    times: dict[str, float] = {}
    for name, work in (("shared_memory_ms", shared), ("pipe_ms", piped)):
        work()
        elapsed = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            elapsed.append(1000 * (time.perf_counter() - start))
        times[name] = round(statistics.median(elapsed), 2)
    child.kill()
    child.wait()
    os.close(memory)
    _say(f"a 16-crop canvas: {times['shared_memory_ms']} ms shared, {times['pipe_ms']} ms piped")
    return times


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="checkout of the state before")
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), metavar="N")
    parser.add_argument("--pictures", nargs="+", default=list(PICTURES), choices=list(PICTURES))
    parser.add_argument("--only", nargs="+", choices=("ours", "before", "stock"), help="front ends")
    parser.add_argument(
        "--seconds", type=float, default=20, help="of work for each row (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="of each row, the best counts (default: %(default)s)"
    )
    parser.add_argument(
        "--large-pictures", type=int, default=32, metavar="N", help="of 50 megapixels at once; 0: skip that"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one worker, the first picture, 3 seconds, no memory"
    )
    options = parser.parse_args()
    if options.quick:
        options.workers, options.pictures = [1], options.pictures[:1]
        options.seconds, options.rounds, options.large_pictures = 3, 1, 0
    variants = {"ours": ROOT, "stock": ROOT}
    if options.before:
        variants = {"ours": ROOT, "before": options.before.resolve(), "stock": ROOT}
    if options.only:
        variants = {name: checkout for name, checkout in variants.items() if name in options.only}
    result: dict[str, Any] = {
        "machine": describe_machine() | {"load_average": os.getloadavg()[0]},
        "seconds": options.seconds,
        "rounds": options.rounds,
        "before": _commit(options.before) if options.before else None,
        "num_crops": NUM_CROPS,
        "transfer": measure_transfer(),
    }
    result["speed"] = measure_speed(
        variants, options.pictures, options.workers, options.seconds, options.rounds
    )
    _write(options.out, result)
    if options.large_pictures:
        measured = {name: checkout for name, checkout in variants.items() if name != "stock"}
        result["memory"] = measure_memory(measured, options.large_pictures, max(options.workers))
        _write(options.out, result)
    for row in result["speed"]:
        if "failure" in row:
            print(f"{row['front_end']:8} {row['workers']} workers  failed")
            continue
        rates = (
            f"{row['pictures_per_s']:8.1f}/s  ideal {row['ideal_per_s']:8.1f}/s  {row['share_of_ideal']:6.1%}"
        )
        print(f"{row['front_end']:8} {row['workers']} workers  {row['picture']:15} {rates}")
    for row in result.get("memory", []):
        print(f"{row['front_end']:8} {row['pictures']} pictures: grew by {row['server_growth_mb']} MB")
    return 0


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
