"""The engine at work: torch and vLLM load, and the demo model answers."""

from __future__ import annotations

import base64
import io
import time

from PIL import Image, ImageDraw

from phi_vision.client.chat import ask, served_tasks
from phi_vision.client.exchange import Endpoint, model_for
from phi_vision.client.text import one_line
from phi_vision.doctor import programs
from phi_vision.doctor.finding import Finding, fail, ok, skipped
from phi_vision.doctor.setup import Setup
from phi_vision.errors import PhiVisionError
from phi_vision.planning.hardware import Device

_START_LIMIT_S = 600.0
_TASK, _EXPECTED = "caption", "red"  # in any description of the picture

# On a GPU also what torch's kernels say to this one.
_LOADS = "import torch, vllm"
_LOADS_ON_GPU = f"{_LOADS}; (torch.ones(8, device='cuda') + 1).sum().item()"


def loads(setup: Setup) -> Finding | None:
    """Whether torch and vLLM can be imported, and torch can use the GPU."""
    if setup.engine is None:
        return None
    started_s = time.monotonic()
    cause = programs.error_of(_LOADS_ON_GPU if setup.gpu else _LOADS)
    if cause:
        return fail(f"torch and vLLM do not load: {cause}", f"`make install ACCEL={setup.engine}`")
    what = "torch and vLLM load, and torch computes on the GPU" if setup.gpu else "torch and vLLM load"
    return ok(f"{what} ({time.monotonic() - started_s:.0f} s)")


def generation(setup: Setup) -> Finding | None:
    """Whether the demo, or the server that runs already, describes a picture."""
    if setup.running:
        return _asked(setup.running, f"the server at {setup.running.base_url}")
    if not isinstance(setup.device, Device):
        return skipped("there is no device for it")
    flags = ("--model", "demo", "--max-model-len", "8192")
    started_s = time.monotonic()

    def on_wait(waited_s: float, state: str) -> None:
        setup.progress(f"{state}, {waited_s:.0f} s")

    try:
        with setup.start(setup.config.device, *flags, on_wait=on_wait, timeout_s=_START_LIMIT_S) as (
            _,
            endpoint,
        ):
            return _asked(endpoint, f"the demo, started in {time.monotonic() - started_s:.0f} s,")
    except PhiVisionError as error:
        return fail(one_line(str(error)), "`phi-vision serve --model demo` shows the whole log")


def _asked(endpoint: Endpoint, who: str) -> Finding:
    model = model_for(_TASK, served_tasks(endpoint), endpoint)
    text = one_line(ask(endpoint, model, [_picture()], 1).text)
    if _EXPECTED not in text.lower():
        return fail(
            f"{who} describes a red circle and a blue square as {text!r}",
            "the engine computes wrongly: try another --dtype or --attention-backend",
        )
    return ok(f"{who} describes a picture: {text!r}")


def _picture() -> dict[str, object]:
    """What the demo has learnt to describe, as a part of a message."""
    picture = Image.new("RGB", (800, 640), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((60, 240, 260, 440), fill=(222, 36, 36))
    pen.rectangle((330, 130, 490, 290), fill=(35, 75, 220))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
