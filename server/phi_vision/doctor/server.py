"""What a server needs of this machine beside the engine: its port, and processes that decode pictures."""

from __future__ import annotations

import asyncio
import contextlib
import io

import psutil
from PIL import Image

from phi_vision.doctor import programs
from phi_vision.doctor.finding import Finding, fail, ok, warn
from phi_vision.doctor.gpu import title
from phi_vision.doctor.setup import Setup
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.media.decode import FORMATS, PictureLimits, PictureRefused
from phi_vision.media.worker_pool import WorkerPool
from phi_vision.model.crops import CropLimit
from phi_vision.serving.startup import listen

_PICTURE_PX = (32, 24)


def port(setup: Setup) -> Finding:
    """Whether a server could listen, and else who does."""
    host, port = setup.config.host, setup.config.port
    if port == 0:
        return ok("any that is free")
    where = f"{host}:{port}"
    try:
        listen(host, port).close()
        return ok(f"{where} is free")
    except UsageError as error:
        pid = _holder(port)
        who = "a program that is not seen from here"
        if pid is not None:
            who = f"{title(pid) or 'a program'} (process {pid})"
        if setup.running or who.startswith("phi-vision"):
            return warn(f"{where} is taken by a phi-vision server", "use it, or choose another --port")
        if pid is None and "in use" not in str(error):
            return fail(str(error))
        return fail(f"{where} is taken by {who}", "end it, or choose another --port")


def decoders(setup: Setup) -> Finding | None:
    """Whether a picture of each format is drawn in a process of its own."""
    if setup.engine is None:  # and so without numpy, which it brings
        return None
    pool = WorkerPool(PictureLimits(Limits().max_image_pixels), 1, Limits.decode_timeout_s)
    formats = (*FORMATS, "PDF")
    try:
        asyncio.run(_draw_each(pool, formats))
    except PictureRefused as refused:
        cause = programs.error_of("import phi_vision.media.worker")
        return fail(f"pictures are not decoded: {cause or refused}", "`make install`")
    finally:
        pool.close()
    return ok(f"{', '.join(formats)} are drawn in a process of their own")


async def _draw_each(pool: WorkerPool, formats: tuple[str, ...]) -> None:
    for name in formats:
        encoded = io.BytesIO()
        Image.new("RGB", _PICTURE_PX, "red").save(encoded, name)
        try:
            await pool.draw(encoded.getvalue(), CropLimit(1))
        except PictureRefused as refused:
            raise PictureRefused(f"{name}: {refused}") from refused


def _holder(port: int) -> int | None:
    """The process that listens there; None where that is not told."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
                return each.pid
    return None
