"""Decode pictures in worker processes that may die.

Image decoders are C code fed by strangers. In a process of its own, with a memory limit and none of
the server's secrets, a decoder that crashes, hangs or swells costs one request: the worker is killed
and the next picture starts another. Requests share the workers fairly, see `fair_share`.

Between server and worker, over pipes: 8 bytes of length and the file, one picture at a time; back comes
a line of JSON, `{"size": [width, height]}` and then the RGB bytes, or `{"refused": reason}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from phi_vision.media.decode import PictureLimits, PictureRefused, decode
from phi_vision.media.fair_share import DecodeShare

_LENGTH_BYTES = 8
_PIPE_BYTES = 1 << 20
_BASE_BYTES = 256 << 20  # address space of Python and the decoders
_BYTES_PER_PIXEL = 20  # RGBA, its RGB copy and the bytes to send, at once, with room for the decoder
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")

logger = logging.getLogger("vllm.phi_vision.worker_pool")


@dataclass(eq=False)
class _Job:
    """A picture that waits for a decoder."""

    data: bytes
    share: DecodeShare
    turn: int
    done: Future[Image.Image] = field(default_factory=Future)


class DecoderPool:
    """Up to `workers` threads, each with a process of its own that starts with its first picture.

    Args:
        limits: what one picture may be.
        workers: how many pictures are decoded at once.
        request_s: decoder time of all pictures of one request.
    """

    def __init__(self, limits: PictureLimits, workers: int, request_s: float) -> None:
        self._limits = limits
        self._request_s = request_s
        self._threads = ThreadPoolExecutor(workers, "decoder")
        self._of_thread = threading.local()
        self._waiting: list[_Job] = []
        self._turn = 0  # of the picture taken last
        self._lock = threading.Lock()

    def share(self) -> DecodeShare:
        """The share of a new request, to be given with each of its pictures."""
        return DecodeShare(self._request_s)

    async def decode(self, data: bytes, share: DecodeShare | None = None) -> Image.Image:
        """The picture as RGB, see `pictures.decode`; without a `share`, as a request of its own.

        Raises:
            PictureRefused: it is not taken, its decoder crashed, or the request's time is spent.
        """
        share = share or self.share()
        with self._lock:
            job = _Job(data, share, share.take_turn(self._turn))
            self._waiting.append(job)
        self._threads.submit(self._take_one)
        try:
            return await asyncio.wrap_future(job.done)
        except asyncio.CancelledError:  # the client has gone
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)
            share.give_up()
            raise

    def _take_one(self) -> None:
        """Decode the picture whose turn it is, if one still waits: the first to come of the lowest turn."""
        with self._lock:
            if not self._waiting:
                return
            job = min(self._waiting, key=lambda job: job.turn)
            self._waiting.remove(job)
            self._turn = job.turn
        if not job.done.set_running_or_notify_cancel():
            return
        try:
            job.done.set_result(self.decode_here(job.data, job.share))
        except BaseException as error:
            job.done.set_exception(error)

    def decode_here(self, data: bytes, share: DecodeShare | None = None) -> Image.Image:
        """The same, in the calling thread and out of turn."""
        share = share or self.share()
        too_slow = PictureRefused(
            f"the pictures of this request took longer than {share.limit_s:g} s to decode"
        )
        if share.spent:
            raise too_slow
        worker: subprocess.Popen[bytes] | None = getattr(self._of_thread, "worker", None)
        if worker is not None and worker.poll() is not None:
            _end(worker)
            worker = None
        if worker is None:
            self._of_thread.worker = worker = self._start()
        try:
            with share.at_work(worker):
                return _exchange(worker, data)
        except (OSError, EOFError) as error:
            code = _end(worker)
            if share.spent:
                raise too_slow from error
            # The file itself is not logged: it is the client's.
            logger.warning("a picture decoder ended with %s; another will start", code)
            raise PictureRefused("its decoder crashed or ran out of memory") from error
        finally:
            if share.spent:  # it may have been killed just when it was done
                _end(worker)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "phi_vision.media.worker_pool"),
                *(str(self._limits.max_pixels), str(self._request_s)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            pipesize=_PIPE_BYTES,
            start_new_session=True,  # Ctrl-C is for the server to handle
        )


def _end(worker: subprocess.Popen[bytes]) -> int:
    """Kill it and close its pipes; its exit code."""
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was still to be sent to it
            pipe.close()
    return worker.wait()


def _exchange(worker: subprocess.Popen[bytes], data: bytes) -> Image.Image:
    assert worker.stdin is not None and worker.stdout is not None  # both are pipes
    worker.stdin.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    if "refused" in answer:
        raise PictureRefused(answer["refused"])
    width, height = answer["size"]
    pixels = worker.stdout.read(width * height * 3)
    if len(pixels) < width * height * 3:
        raise EOFError
    return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)


def serve_pictures(limits: PictureLimits, picture_s: float) -> None:
    """The worker's loop, until the server closes the pipe."""
    _limit_memory(_BASE_BYTES + _BYTES_PER_PIXEL * limits.max_pixels)
    files, answers = sys.stdin.buffer, sys.stdout.buffer
    while length := files.read(_LENGTH_BYTES):
        signal.setitimer(
            signal.ITIMER_REAL, picture_s + 1
        )  # ends a worker that hangs after the server is gone
        data = files.read(int.from_bytes(length, "big"))
        try:
            picture = decode(data, limits)
            pixels = picture.tobytes()
        except (PictureRefused, MemoryError) as error:
            _answer(answers, {"refused": str(error) or "decoding it needs too much memory"})
        else:
            _answer(answers, {"size": picture.size}, pixels)
            del picture, pixels
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(answers: Any, header: dict[str, Any], body: bytes = b"") -> None:
    answers.write(json.dumps(header).encode() + b"\n")
    answers.write(body)
    answers.flush()


def _limit_memory(address_space_bytes: int) -> None:
    """Have the system refuse more; macOS ignores this limit."""
    import resource

    with contextlib.suppress(ValueError, OSError):  # the container's own limit is lower
        resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    serve_pictures(PictureLimits(max_pixels=int(sys.argv[1])), float(sys.argv[2]))
