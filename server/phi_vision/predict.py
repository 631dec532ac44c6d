"""`phi-vision predict`: one task on pictures, through a server, or through an engine started for it."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from PIL import Image, ImageOps, UnidentifiedImageError

from phi_vision.config import DEMO_NAME, SERVED_NAME, ServeConfig
from phi_vision.errors import UsageError
from phi_vision.hardware import find_device
from phi_vision.start_phase import announced_port
from phi_vision.tasks import PRESETS

_FETCH_TIMEOUT_S = 20.0
_PROBE_TIMEOUT_S = 1.0
_SUMMARY_BYTES = 1 << 14  # of the server's log; its summary stands first
_START_TIMEOUT_S = 1800.0  # an own engine may have to download the weights first


@dataclass(frozen=True)
class Input:
    """A picture as given on the command line. Sizes in pixels, upright."""

    name: str
    width: int
    height: int
    url: str  # data URL


@dataclass(frozen=True)
class Answer:
    """What came back, with what the server says it used."""

    text: str
    model: str
    finish_reason: str | None
    usage: dict[str, Any] | None
    num_crops: list[int | None]
    image_tokens: list[int | None]


def predict(options: argparse.Namespace) -> None:
    """Run the command with parsed `options` (see `cli`).

    Raises:
        UsageError: anything that the user can mend, in one line.
    """
    if options.device != "auto":
        find_device(options.device)
    preset = PRESETS[options.task]
    if preset.prompt is None and not options.prompt:
        raise UsageError(f"--task {options.task} needs a question: add --prompt")
    output = Path(options.output) if options.output else None
    if output is not None:
        _check_writable(output)
    pictures = [_load(name) for name in options.image]
    to_terminal = output is None and options.format == "txt"
    started_s = time.perf_counter()
    with _server(options.base_url, options.device) as base_url:
        answer = _ask(base_url, options.task, options.prompt, pictures, show=to_terminal)
    if answer.model == DEMO_NAME:
        _note("answered by the DEMO model: it reads printed capitals and names plain shapes, nothing else")
    if to_terminal:
        return
    if options.format == "json":
        result = {
            "text": answer.text,
            "task": options.task,
            "prompt": options.prompt or preset.prompt,
            "model": answer.model,
            "images": [
                {"name": p.name, "width": p.width, "height": p.height, "crops": crops, "tokens": tokens}
                for p, crops, tokens in zip(pictures, answer.num_crops, answer.image_tokens, strict=True)
            ],
            "usage": answer.usage,
            "finish_reason": answer.finish_reason,
            "seconds": round(time.perf_counter() - started_s, 3),
        }
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    else:
        text = answer.text + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        _write_whole(output, text)


def _load(name: str) -> Input:
    """Read a picture from a file or an http(s) address."""
    if name.startswith(("http://", "https://")):
        try:
            response = httpx.get(name, timeout=_FETCH_TIMEOUT_S, follow_redirects=True).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UsageError(f"cannot fetch {name}: {error or type(error).__name__}") from error
        data = response.content
    else:
        try:
            data = Path(name).expanduser().read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            mime = Image.MIME.get(image.format or "", "application/octet-stream")
            width, height = ImageOps.exif_transpose(image).size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name} is not a picture that can be read") from error
    return Input(name, width, height, f"data:{mime};base64,{base64.b64encode(data).decode()}")


@contextmanager
def _server(base_url: str | None, device: str) -> Iterator[str]:
    """The base URL of a server: the one asked for, one on the default port, or one started for this."""
    asked = base_url or os.environ.get("OPENAI_BASE_URL")
    if asked:
        yield asked
        return
    default = f"http://{ServeConfig.host}:{ServeConfig.port}/v1"
    try:
        running = httpx.get(f"{default}/tasks", timeout=_PROBE_TIMEOUT_S).is_success
    except httpx.HTTPError:
        running = False
    if running:
        _note(f"using the server at {default}")
        yield default
    else:
        with own_server(device) as own:
            yield own


@contextmanager
def own_server(device: str, *flags: str) -> Iterator[str]:
    """The base URL of a `phi-vision serve` on a free port of this machine, for as long as it is needed.

    Raises:
        UsageError: it did not start; the message says why.
    """
    command = [sys.executable, "-m", "phi_vision", "serve", "--device", device, "--port", "0", *flags]
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{_wait_until_ready(process, log)}/v1"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Any) -> int:
    """The port that it listens on."""
    started_s = time.monotonic()
    while (waited_s := time.monotonic() - started_s) < _START_TIMEOUT_S:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise UsageError(f"the engine did not start: {said[-1]}")
        # Without a seek, which would move where the server writes, too.
        port = announced_port(os.pread(log.fileno(), _SUMMARY_BYTES, 0).decode(errors="replace"))
        try:
            if port and httpx.get(f"http://127.0.0.1:{port}/health", timeout=_PROBE_TIMEOUT_S).is_success:
                _note(f"engine ready after {waited_s:.0f} s", end="\n")
                return port
        except httpx.HTTPError:
            pass
        _note(f"no server found; starting an engine: {waited_s:.0f} s", end="\r")
        time.sleep(1)
    raise UsageError(f"the engine did not start within {_START_TIMEOUT_S:.0f} s")


def _ask(base_url: str, task: str, prompt: str | None, pictures: Sequence[Input], *, show: bool) -> Answer:
    """Send the request and read the stream, showing it as it comes if asked to."""
    content: list[Any] = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in pictures]
    if prompt:
        content.append({"type": "text", "text": prompt})
    key = os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    pieces: list[str] = []
    model, finish_reason, usage = "", None, None
    try:
        raw = client.chat.completions.with_raw_response.create(
            model=f"{SERVED_NAME}:{task}",
            messages=[{"role": "user", "content": content}],
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in raw.parse():
            model = chunk.model
            usage = chunk.usage.model_dump(exclude_none=True) if chunk.usage else usage
            for choice in chunk.choices:
                finish_reason = choice.finish_reason or finish_reason
                pieces.append(choice.delta.content or "")
                if show:
                    sys.stdout.write(pieces[-1])
                    sys.stdout.flush()
    except openai.APIConnectionError as error:
        raise UsageError(f"no server answers at {base_url}") from error
    except openai.APIError as error:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        raise UsageError(f"the server refused: {said or error.message}") from error
    if show:
        sys.stdout.write("\n")
    return Answer(
        "".join(pieces),
        model,
        finish_reason,
        usage,
        _numbers(raw.headers.get("x-phi-vision-num-crops"), len(pictures)),
        _numbers(raw.headers.get("x-phi-vision-image-tokens"), len(pictures)),
    )


def _numbers(header: str | None, count: int) -> list[int | None]:
    """One number a picture; none where the server is not ours and says nothing."""
    return [int(cell) for cell in header.split(",")] if header else [None] * count


def _check_writable(path: Path) -> None:
    """Fail before the model has worked, not after."""
    try:
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _write_whole(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except OSError as error:
        os.unlink(draft)
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _note(text: str, end: str = "\n") -> None:
    """A word to the user beside the answer."""
    print(f"phi-vision: {text}", end=end, file=sys.stderr, flush=True)
