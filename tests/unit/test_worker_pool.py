"""Canvases drawn in processes that die, hang, lie and are shared."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from phi_vision.media import worker_process
from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.fair_share import DecodeShare
from phi_vision.media.worker import BASE_BYTES, BYTES_PER_PIXEL
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.canvas import MAX_CANVAS_BYTES, Canvas, resize_and_pad
from phi_vision.model.crops import CropLimit
from phi_vision.model.geometry import native_num_crops

from tests.support.pictures import encoded, reference_picture

LIMITS = PictureLimits(max_pixels=1_000_000)
GOOD = reference_picture(40, 30, seed=0)
ONE = CropLimit(1)


def draw(pool: WorkerPool, data: bytes, limit: CropLimit = ONE) -> Canvas:
    return asyncio.run(pool.draw(data, limit))


def is_good(canvas: Canvas) -> bool:
    return np.array_equal(canvas.pixels, resize_and_pad(GOOD, 1))


def workers(pool: WorkerPool) -> list[psutil.Process]:
    return [psutil.Process(worker.process.pid) for worker in pool._idle if worker is not None]


def pool_with(
    make_pool: Callable[..., WorkerPool],
    monkeypatch: pytest.MonkeyPatch,
    *programs: str,
    workers: int = 1,
    request_s: float = 60,
) -> WorkerPool:
    """A pool whose first processes run these programs."""
    pool = make_pool(LIMITS, workers, request_s)
    usual = pool._program
    waiting = iter(programs)

    def program() -> list[str]:
        code = next(waiting, None)
        return usual() if code is None else [sys.executable, "-c", code]

    monkeypatch.setattr(pool, "_program", program)
    return pool


HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def says(line: str) -> str:
    """A worker that answers this and draws nothing."""
    return f"import sys; sys.stdin.buffer.read(20); print({line!r}, flush=True); sys.stdin.read()"


@pytest.mark.parametrize(
    ("size", "limit"), [((800, 600), 16), ((300, 700), 4), ((336, 336), 1), ((1000, 10), 16)]
)
def test_a_canvas_is_what_is_drawn_here(
    make_pool: Callable[..., WorkerPool], size: tuple[int, int], limit: int
) -> None:
    pool = make_pool(LIMITS, workers=1, request_s=60)
    picture = reference_picture(*size, seed=1)
    data = encoded(picture)
    canvas = draw(pool, data, CropLimit(limit))
    assert np.array_equal(canvas.pixels, resize_and_pad(picture, limit))
    assert (canvas.width, canvas.height, canvas.num_crops) == (*size, limit)
    assert canvas.pixels.flags.writeable  # torch takes no other without a warning


def test_an_adaptive_limit_follows_the_size(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(LIMITS, workers=1, request_s=60)
    picture = reference_picture(700, 500, seed=1)
    expected = native_num_crops(700, 500, 16)
    canvas = draw(pool, encoded(picture), CropLimit(16, adaptive=True))
    assert 1 < expected < 16 and canvas.num_crops == expected
    assert np.array_equal(canvas.pixels, resize_and_pad(picture, expected))


def test_the_key_is_of_the_file_and_its_crops(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(LIMITS, workers=1, request_s=60)
    first, second = encoded(GOOD), encoded(GOOD, "BMP")
    keys = [draw(pool, data, CropLimit(n)).key for data in (first, second) for n in (1, 4)]
    assert len(set(keys)) == 4
    assert keys[0] == draw(pool, first).key == f"{hashlib.sha256(first).hexdigest()}-1"


def test_a_small_canvas_after_a_large_one_is_its_own(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(LIMITS, workers=1, request_s=60)
    large = draw(pool, encoded(reference_picture(700, 700, seed=4)), CropLimit(16))
    before = large.pixels.copy()
    assert is_good(draw(pool, encoded(GOOD)))
    assert np.array_equal(large.pixels, before)


@pytest.mark.parametrize(
    "program",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import os, sys; sys.stdin.buffer.read(20); os.abort()",
        "import sys; sys.stdin.buffer.read(20); print('{\"size\": [40', end='')",  # half an answer
        says("nonsense"),
        says("[]"),
        says('{"size": [40], "key": "k"}'),
        says('{"size": [0, 30], "key": "k"}'),
        says('{"size": [40.5, 30], "key": "k"}'),
        says('{"size": [40, 30], "key": "k"}'),
        says('{"size": [40, 30], "key": "k", "dpi": NaN}'),
        says('{"size": [40, 1%s], "key": "k", "dpi": null}' % ("0" * 400)),
        says('{"pages": 3}'),
        says('{"size": [40, 30], "key": "k", "dpi": null}'),  # and an empty memory
    ],
)
def test_a_worker_that_dies_or_lies_costs_one_picture(
    make_pool: Callable[..., WorkerPool], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_with(make_pool, monkeypatch, program)
    with pytest.raises(PictureRefused, match="crashed or ran out of memory"):
        draw(pool, encoded(GOOD))
    assert is_good(draw(pool, encoded(GOOD)))


def test_who_made_the_pool_hears_of_a_worker_that_dies(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[str] = []
    pool = make_pool(LIMITS, workers=1, request_s=60, on_death=lambda: deaths.append("died"))
    monkeypatch.setattr(pool, "_program", lambda: [sys.executable, "-c", "import os; os.abort()"])
    with pytest.raises(PictureRefused, match="crashed"):
        draw(pool, encoded(GOOD))
    assert deaths == ["died"]


@pytest.mark.parametrize(
    "line", ['{"file": 11}', '{"file": 0}', '{"file": ""}', '{"pages": 1}', '{"file": 9}']
)
def test_a_worker_that_lies_about_a_page_costs_that_page(
    make_pool: Callable[..., WorkerPool], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one sends less than it says."""
    program = f"import sys; sys.stdin.buffer.read(20); print({line!r}); print('12345', flush=True)"
    pool = pool_with(make_pool, monkeypatch, program)
    with pytest.raises(PictureRefused, match="crashed or ran out of memory"):
        asyncio.run(pool.extract_page(encoded(GOOD), 0, max_bytes=10))
    assert is_good(draw(pool, encoded(GOOD)))


def test_a_worker_that_cuts_its_memory_short_crashes_only_itself(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"size": [40, 30], "key": "k", "dpi": None})
    program = (
        "import os, sys; sys.stdin.buffer.read(20); memory = int(sys.argv[1]);"
        "os.write(memory, bytes(400_000));"
        f"os.ftruncate(memory, 10); print({answer!r}, flush=True); sys.stdin.read()"
    )
    pool = pool_with(make_pool, monkeypatch, program)
    with pytest.raises(PictureRefused, match="crashed"):
        draw(pool, encoded(GOOD))
    assert is_good(draw(pool, encoded(GOOD)))


def test_a_worker_that_hangs_costs_the_time_of_one_request(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_with(make_pool, monkeypatch, HANGS, request_s=0.5)

    async def pictures_of_one_request() -> list[BaseException | Canvas]:
        share = pool.share()
        drawing = [pool.draw(encoded(GOOD), ONE, share) for _ in range(4)]
        return await asyncio.gather(*drawing, return_exceptions=True)

    refusals = asyncio.run(pictures_of_one_request())
    assert {str(refusal) for refusal in refusals} == {
        "the pictures of this request took longer than 0.5 s to draw; send fewer of them"
    }
    pool._request_s = 60  # a worker's start alone may take long on a busy machine
    assert is_good(draw(pool, encoded(GOOD)))


class Worker:
    """What a share knows of a worker."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()


def test_two_workers_for_one_request_take_its_time_twice_as_fast() -> None:
    now = 0.0
    share = DecodeShare(20, lambda: now)
    first: Any = Worker()
    second: Any = Worker()
    with share.at_work(first):
        now = 8.0
        assert share.enforce(most_workers=4) == 3
        with share.at_work(second):
            now = 10.0
            assert share.enforce(most_workers=4) == 2
        now = 17.9
        assert 0 < share.enforce(most_workers=4) < 0.1
        assert not share.spent and not first.killed.is_set()
        now = 18.0
        share.enforce(most_workers=4)
    assert share.spent and first.killed.is_set() and not second.killed.is_set()


def test_a_worker_that_comes_too_late_to_a_request_is_ended() -> None:
    share = DecodeShare(20)
    share.give_up()
    worker: Any = Worker()
    with share.at_work(worker):
        assert worker.killed.is_set()


def test_requests_take_turns_at_the_workers(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request with four pictures, then two with two each, while the only worker is busy."""
    pool = make_pool(LIMITS, workers=1, request_s=60)
    busy, begun = threading.Event(), threading.Event()
    order: list[str] = []

    def draw_job(job: Any) -> None:
        begun.set()
        busy.wait()
        order.append(job.data.decode())

    monkeypatch.setattr(pool, "_draw", draw_job)

    async def all_of_them() -> None:
        drawing = []
        for name, count in (("a", 4), ("b", 2), ("c", 2)):
            share = pool.share()
            for i in range(count):
                drawing.append(asyncio.ensure_future(pool.draw(f"{name}{i}".encode(), ONE, share)))
                await asyncio.sleep(0)
                await asyncio.to_thread(begun.wait)
        busy.set()
        await asyncio.gather(*drawing)

    asyncio.run(all_of_them())
    assert order == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "a3"]


def hold_start(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a worker has been started."""
    started = threading.Event()
    real_start: Callable[[], Any] = pool._start

    def start() -> Any:
        worker = real_start()
        started.set()
        return worker

    monkeypatch.setattr(pool, "_start", start)
    return started


def test_a_client_that_goes_frees_its_worker_and_its_places(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_with(make_pool, monkeypatch, HANGS)
    started = hold_start(pool, monkeypatch)

    async def client_goes() -> None:
        share = pool.share()
        drawing = asyncio.gather(*(pool.draw(encoded(GOOD), ONE, share) for _ in range(3)))
        await asyncio.to_thread(started.wait)
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        assert pool._waiting == []
        assert is_good(await pool.draw(encoded(GOOD), ONE))

    asyncio.run(client_goes())


def test_the_loop_runs_on_while_a_canvas_is_drawn(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_with(make_pool, monkeypatch, HANGS)
    started = hold_start(pool, monkeypatch)

    async def ticks() -> None:
        drawing = asyncio.ensure_future(pool.draw(encoded(GOOD), ONE))
        while not started.is_set():
            await asyncio.sleep(0)
        assert not drawing.done()
        drawing.cancel()

    asyncio.run(ticks())


def test_a_worker_that_cannot_start_is_no_fault_of_the_picture(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(LIMITS, workers=1, request_s=60)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "_program", lambda: ["/does/not/exist"])
        with pytest.raises(FileNotFoundError):
            draw(pool, encoded(GOOD))
    assert is_good(draw(pool, encoded(GOOD)))


def test_all_workers_start_before_the_first_picture(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(LIMITS, workers=3, request_s=60)
    assert workers(pool) == []
    pool.warm_up()
    running = workers(pool)
    assert len(running) == 3 and all(process.is_running() for process in running)
    draw(pool, encoded(GOOD))
    assert set(workers(pool)) == set(running)


def test_a_worker_has_limits_and_no_secrets(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "a-key-to-hide")
    monkeypatch.setenv("HF_TOKEN", "a-token-to-hide")
    pool = make_pool(LIMITS, workers=1, request_s=60)
    draw(pool, encoded(GOOD))
    (worker,) = workers(pool)
    process = Path(f"/proc/{worker.pid}")
    assert b"to-hide" not in (process / "environ").read_bytes()
    limits = (process / "limits").read_text().splitlines()
    values = {line[:25].strip(): line[25:].split()[0] for line in limits}
    assert int(values["Max address space"]) == BASE_BYTES + BYTES_PER_PIXEL * LIMITS.max_pixels
    assert int(values["Max file size"]) == MAX_CANVAS_BYTES  # and so the shared memory


def test_a_worker_loads_neither_numpy_nor_vllm(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(LIMITS, workers=1, request_s=60)
    draw(pool, encoded(GOOD))
    (worker,) = workers(pool)
    loaded = {Path(entry.path).name.partition(".")[0] for entry in worker.memory_maps()}
    assert "_imaging" in loaded and not loaded & {"_multiarray_umath", "libtorch_cpu", "_C"}


def test_a_worker_outlives_no_server(make_pool: Callable[..., WorkerPool]) -> None:
    """The pipe ends with the server, however it ends, and the worker with the pipe."""
    pool = make_pool(LIMITS, workers=1, request_s=60)
    pool.warm_up()
    (worker,) = [worker for worker in pool._idle if worker is not None]
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(20) == 0


def test_dead_workers_leave_no_descriptor_and_no_memory(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os; os.abort()"
    pool = pool_with(make_pool, monkeypatch, *[crash] * 5)
    gc.collect()  # pools of other tests
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(PictureRefused):
            draw(pool, encoded(GOOD))
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not [name for name in os.listdir("/dev/shm") if "canvas" in name]


def test_without_memory_that_has_no_name_a_file_serves(
    make_pool: Callable[..., WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    pool = make_pool(LIMITS, workers=1, request_s=60)
    assert is_good(draw(pool, encoded(GOOD)))
    with worker_process._anonymous_file() as file:
        assert not os.path.exists(str(file.name))
