"""The process that draws canvases of strangers' pictures and pages, one at a time. `worker_pool` starts it.

On its standard input: a line of JSON, `{"bytes": n, "most": crops, "adaptive": bool, ...}` with the fields of
a `PageView`, and the file. On its standard output: a line of JSON, `{"size": [width, height], "key": digest,
"dpi": dpi or null}`, or `{"refused": reason}`. The canvas itself is written to a file descriptor that it
inherits, memory shared with the server. A line `{"bytes": n, "count": true}` is
answered by `{"pages": n}`, and `{"bytes": n, "extract": page, "max_bytes": n}` by `{"file": bytes}` and a
file of this page alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import signal
import sys
from typing import Any

from PIL import Image

from phi_vision.media.decode import PictureLimits, PictureRefused
from phi_vision.media.pages import count_pages, draw, extract_page
from phi_vision.media.view import Frame, PageView, Region
from phi_vision.model.canvas import MAX_CANVAS_BYTES, planes
from phi_vision.model.crops import CropLimit

BASE_BYTES = 256 << 20  # address space of Python and the decoders
BYTES_PER_PIXEL = 20  # RGBA, its RGB copy and the copy turned upright, at once, with room for the decoder


def serve(memory: int, limits: PictureLimits, picture_s: float) -> None:
    """Draw canvases until the server closes the pipe.

    Args:
        memory: file descriptor that canvases are written to.
        limits: what one picture may be.
        picture_s: time for one picture, after which a worker ends that nobody else has ended.
    """
    _limit_resources(BASE_BYTES + BYTES_PER_PIXEL * limits.max_pixels)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        signal.setitimer(signal.ITIMER_REAL, picture_s + 1)
        request = json.loads(line)
        data = requests.read(request["bytes"])
        answer: dict[str, Any]
        file = b""
        try:
            if request.get("count"):
                answer = {"pages": count_pages(data)}
            elif "extract" in request:
                file = _extract(data, request, limits)
                answer = {"file": len(file)}
            else:
                limit = CropLimit(request["most"], request["adaptive"])
                answer = _draw(memory, data, _view(request), limit, limits)
        except (PictureRefused, MemoryError) as error:
            answer = {"refused": str(error) or "decoding it needs too much memory"}
        answers.write(json.dumps(answer).encode() + b"\n" + file)
        answers.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _extract(data: bytes, request: dict[str, Any], limits: PictureLimits) -> bytes:
    page, max_bytes = request["extract"], request["max_bytes"]
    file = extract_page(data, page, limits)
    if len(file) > max_bytes:
        raise PictureRefused(f"its page {page + 1} alone is larger than {max_bytes / 1e6:g} MB")
    return file


def _view(request: dict[str, Any]) -> PageView:
    fields = {field.name: request[field.name] for field in dataclasses.fields(PageView)}
    for name, kind in (("region", Region), ("frame", Frame)):
        if fields[name] is not None:
            fields[name] = kind(*fields[name])
    return PageView(**fields)


def _draw(
    memory: int, data: bytes, view: PageView, limit: CropLimit, limits: PictureLimits
) -> dict[str, Any]:
    drawing = draw(data, view, limit, limits)
    _write(memory, drawing.canvas)
    key = f"{hashlib.sha256(data).hexdigest()}-{drawing.num_crops}"
    if view != PageView():
        region, frame = (",".join(map(repr, part or ())) for part in (view.region, view.frame))
        key += f"-{view.page}-{view.rotation}-{view.slant!r}-{region}-{frame}"
    return {"size": [drawing.width, drawing.height], "key": key, "dpi": drawing.dpi}


def _write(memory: int, canvas: Image.Image) -> None:
    offset = 0
    for plane in planes(canvas):
        written = os.pwrite(memory, plane, offset)
        if written < len(plane):
            raise OSError("the shared memory is full")
        offset += written


def _limit_resources(address_space_bytes: int) -> None:
    """Have the system refuse more memory, private or shared; macOS ignores the first limit."""
    with contextlib.suppress(ValueError, OSError):  # the container's own limit is lower
        resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_CANVAS_BYTES, MAX_CANVAS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    serve(int(sys.argv[1]), PictureLimits(max_pixels=int(sys.argv[2])), float(sys.argv[3]))
