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
import base64
import contextlib
import http.client
import importlib
import importlib.util
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

WORKERS = (1, 2, 4)
NUM_CROPS = 16
PICTURES = {  # name -> (width, height, format)
    "800x600 JPEG": (800, 600, "JPEG"),
    "1240x1754 PNG": (1240, 1754, "PNG"),
    "4000x3000 JPEG": (4000, 3000, "JPEG"),
}
LARGE = (8000, 6250, "JPEG")  # 50 megapixels
MODEL = "front-end"
START_TIMEOUT_S = 900
ANSWER_TIMEOUT_S = 900
SAMPLE_INTERVAL_S = 0.01


# The server's side ---------------------------------------------------------------------------------


def serve(variant: str, workers: int, folder: Path, port: int) -> int:
    """Run a front end with the stub in place of the engine; called in a process of its own."""
    os.cpu_count = lambda: workers
    spec = importlib.util.spec_from_file_location(
        "stub_engine", ROOT / "tests" / "support" / "stub_engine.py"
    )
    assert spec is not None and spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    from vllm.v1.engine import core_client

    class SilentStub(stub.StubEngineCore):  # type: ignore[name-defined]
        def _record(self, request: Any) -> None:
            """The file is for tests."""

    def make_stub(vllm_config: Any, *_: Any, renderer: Any = None, **__: Any) -> SilentStub:
        return SilentStub(vllm_config, renderer.tokenizer, folder)

    core_client.EngineCoreClient.make_async_mp_client = staticmethod(make_stub)
    if variant == "stock":
        return _serve_stock(port)
    flags = ["--model", "demo", "--device", "cpu", "--port", str(port), "--served-model-name", MODEL]
    flags += ["--max-num-queued-reqs", "500", "--decode-timeout-s", "600", "--max-model-len", "16384"]
    if variant == "ours":
        flags += ["--media-workers", str(workers)]
    cli = importlib.import_module("phi_vision.cli")
    main = (
        cli.main
        if callable(cli.__dict__.get("main"))
        else importlib.import_module("phi_vision.cli.main").main
    )
    return int(main(["serve", *flags]))


def _serve_stock(port: int) -> int:
    import phi_vision

    package = Path(phi_vision.__file__).parent
    sys.argv = [
        *("vllm", "--model", str(package / "demo"), "--served-model-name", MODEL, "--host", "127.0.0.1"),
        *("--port", str(port), "--mm-processor-kwargs", json.dumps({"num_crops": NUM_CROPS})),
        *("--chat-template", str(package / "model" / "chat_template.jinja")),
        *("--chat-template-content-format", "string", "--interleave-mm-strings", "--max-model-len", "16384"),
        *("--disable-sliding-window", "--enforce-eager"),
    ]
    import runpy

    runpy.run_module("vllm.entrypoints.launchers.api_server.entry", run_name="__main__")
    return 0


class FrontEnd:
    """A front end in a process of its own."""

    def __init__(self, variant: str, checkout: Path, workers: int, folder: Path) -> None:
        self.variant = variant
        self.port = _free_port()
        self.log_path = folder / "log.txt"
        paths = [_entry_points(checkout, folder / "installed"), checkout / "server"]
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        if variant == "stock":
            paths += [ROOT, ROOT / "benchmarks" / "vllm_plugins"]
            environment |= {
                "VLLM_PLUGINS": "benchmark_stock_model",
                "VLLM_MEDIA_LOADING_THREAD_COUNT": str(workers),
            }
        environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        command = [sys.executable, __file__, "--serve", variant, str(workers), str(folder), str(self.port)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def wait_until_ready(self) -> None:
        """Wait for its `/health`.

        Raises:
            RuntimeError: it ended, or takes too long.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            connection.close()
            time.sleep(0.3)
        raise RuntimeError(f"{self.variant} did not start:\n{self.log_path.read_text()[-3000:]}")

    def stop(self) -> None:
        """End it and what it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(variant: str, checkout: Path, workers: int) -> Iterator[FrontEnd]:
    """A front end that answers."""
    with tempfile.TemporaryDirectory(prefix="front-end-") as folder:
        server = FrontEnd(variant, checkout, workers, Path(folder))
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


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


def _free_port() -> int:
    import socket

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


# The client's side ---------------------------------------------------------------------------------


def draw(width: int, height: int, image_format: str) -> bytes:
    """A file of this size: a photograph-like JPEG or a page-like PNG. Its length is a multiple of three."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(0)
    if image_format == "JPEG":
        coarse = random.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    else:
        image = Image.new("RGB", (width, height), "white")
        pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=22)
        for y in range(60, height - 60, 34):
            words = "".join(map(chr, random.integers(97, 123, 95)))
            words = " ".join(words[i : i + 6] for i in range(0, 95, 6))
            pen.text((60, y), words, "black", font)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **({"quality": 90} if image_format == "JPEG" else {}))
    data = buffer.getvalue()
    return data + bytes(-len(data) % 3)


class Requests:
    """Bodies of requests, each with a picture of its own: a few bytes behind the file make it another one."""

    def __init__(self, data: bytes) -> None:
        self._encoded = base64.b64encode(data)
        self._numbers = itertools.count(int.from_bytes(os.urandom(4), "big"))

    def next(self) -> bytes:
        """The body of the next request."""
        tail = base64.b64encode(next(self._numbers).to_bytes(9, "big"))
        head = (
            f'{{"model": "{MODEL}", "max_tokens": 1, "temperature": 0, "messages": [{{"role": "user", '
            '"content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": '
            '{"url": "data:image/x;base64,'
        )
        return head.encode() + self._encoded + tail + b'"}}]}]}'


def post_all(port: int, requests: Requests, count: int, concurrency: int) -> float:
    """Send `count` requests, `concurrency` at a time; seconds from the first to the last answer."""
    local = threading.local()

    def post(_: int) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
        local.connection.request(
            "POST", "/v1/chat/completions", requests.next(), {"content-type": "application/json"}
        )
        answer = local.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {text[:500]!r}")

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(post, range(count)))
    return time.perf_counter() - start


# What is measured ----------------------------------------------------------------------------------


def seconds_a_picture(data: bytes, repeats: int) -> float:
    """Processor time to decode and resize here, which others on the machine hardly change: the median."""
    sys.path.insert(0, str(ROOT / "server"))
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
                    rates, cpu_ms = measure_rates(server, data, count, 4 * number, rounds)
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
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            _say(f"{variant}, {number} workers: {error}")
            rows.append({"front_end": variant, "workers": number, "failure": str(error)[-1000:]})
    return rows


def measure_rates(
    server: FrontEnd, data: bytes, count: int, concurrency: int, rounds: int
) -> tuple[list[float], float]:
    """Pictures a second in each round, and the server's own processor time in ms a picture.

    One more round comes first, to start the workers and fill the caches.
    """
    import psutil

    requests = Requests(data)
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
    if sys.argv[1:2] == ["--serve"]:
        variant, workers, folder, port = sys.argv[2:]
        return serve(variant, int(workers), Path(folder), int(port))
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
    from benchmarks.harness.machine import describe_machine  # not where another checkout is served

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
