"""The server's side of a picture worker: a process that is asked, and what it says, which is not trusted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from typing import IO, Any

from phi_vision.media.decode import PictureRefused
from phi_vision.media.view import PageView
from phi_vision.model.canvas import Canvas
from phi_vision.model.crops import CropLimit
from phi_vision.model.geometry import crop_grid
from phi_vision.processes import PLAIN_ENVIRONMENT

_PIPE_BYTES = 1 << 20
_MAX_ANSWER_BYTES = 10_000
_MAX_NUMBER = 1 << 31  # in an answer
# Have glibc keep the memory of one picture for the next: 12 megapixels at 4 bytes, and the resized copy.
# By its defaults each picture is given fresh pages, and a fifth of the time goes into clearing them.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(96 << 20)}


class WorkerProcess:
    """A worker process and the memory that it shares with the server.

    The memory is a file without a name: it goes when both processes are gone, however they end. It is read
    like a file too, not mapped: what a hijacked worker does to it cannot crash the server.
    """

    def __init__(self, program: list[str], *arguments: str) -> None:
        self._memory = _anonymous_file()
        try:
            self.process = subprocess.Popen(
                [*program, str(self._memory.fileno()), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in PLAIN_ENVIRONMENT if name in os.environ}
                | KEPT_MEMORY,
                pass_fds=[self._memory.fileno()],
                pipesize=_PIPE_BYTES,
                start_new_session=True,  # Ctrl-C is for the server to handle
            )
        except BaseException:
            self._memory.close()
            raise
        self._ended = False

    @property
    def alive(self) -> bool:
        """Whether it can be given a picture; one that has died is cleared away."""
        if not self._ended and self.process.poll() is not None:
            self.end()
        return not self._ended

    def draw(self, data: bytes, limit: CropLimit, view: PageView) -> Canvas:
        """Have it draw one canvas.

        Raises:
            PictureRefused: as the worker says.
            OSError, EOFError: it has died, or does not do what it should.
        """
        header = {"most": limit.most, "adaptive": limit.adaptive, **asdict(view)}
        answer = self._ask(header, data)
        if "size" not in answer:
            raise EOFError
        width, height = answer["size"]
        num_crops = limit.num_crops(width, height)
        grid = crop_grid(width, height, num_crops)
        import numpy as np  # here: a client that counts pages does without

        pixels = np.empty((3, grid.height, grid.width), np.uint8)
        if os.preadv(self._memory.fileno(), [pixels.data], 0) < pixels.nbytes:
            raise EOFError
        return Canvas(pixels, width, height, num_crops, answer["key"], answer["dpi"])

    def count_pages(self, data: bytes) -> int:
        """Have it count the pages of a file; raises as `draw` does."""
        answer = self._ask({"count": True}, data)
        if "pages" not in answer:
            raise EOFError
        return int(answer["pages"])

    def extract_page(self, data: bytes, page: int, max_bytes: int) -> bytes:
        """Have it make a file of one page; raises as `draw` does."""
        answer = self._ask({"extract": page, "max_bytes": max_bytes}, data)
        size = answer.get("file", max_bytes + 1)
        answers = self.process.stdout
        assert answers is not None  # it is a pipe
        if size > max_bytes or len(file := answers.read(size)) < size:
            raise EOFError
        return file

    def _ask(self, header: dict[str, Any], data: bytes) -> dict[str, Any]:
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None  # both are pipes
        requests.write(json.dumps({"bytes": len(data), **header}).encode() + b"\n")
        requests.write(data)
        requests.flush()
        answer = _parsed(answers.readline(_MAX_ANSWER_BYTES))
        if "refused" in answer:
            raise PictureRefused(str(answer["refused"]))
        return answer

    def end(self) -> int:
        """Kill it and let go of what it had; its exit code."""
        self.process.kill()
        if not self._ended:
            self._ended = True
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # what was still to be sent to it
                    pipe.close()
            self._memory.close()
        return self.process.wait()


def _anonymous_file() -> IO[bytes]:
    """Memory without a name; where the system has no such memory, a file without one."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("canvas"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _parsed(line: bytes) -> dict[str, Any]:
    """A worker's answer; one that makes no sense counts as none."""
    with contextlib.suppress(ValueError):
        match json.loads(line):
            case {"refused": str()} as answer:
                return answer
            case {"pages": int(number)} | {"file": int(number)} as answer if 0 < number < _MAX_NUMBER:
                return answer
            case {
                "size": [int(width), int(height)],
                "key": str(),
                "dpi": None | float() as dpi,
            } as answer if (
                0 < width < _MAX_NUMBER
                and 0 < height < _MAX_NUMBER
                and (dpi is None or 0 < dpi < _MAX_NUMBER)
            ):
                return answer
    raise EOFError
