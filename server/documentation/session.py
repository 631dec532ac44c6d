"""The picture of the server at work: a recorded session, drawn as a terminal.

`make record` records `session.json` with the demo model; `make docs` draws it.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from phi_vision.client.process import ServerProcess, serve_command
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORD, PICTURE = HERE / "session.json", HERE / "session.svg"

# The picture that each request is about, and the request.
REQUESTS = {
    "sign.png": ".venv/bin/python client_examples/ocr_stream.py tests/images/sign.png",
    "shapes.png": ".venv/bin/python client_examples/vqa.py tests/images/shapes.png "
    "'What color is the circle?'",
}

_COLUMNS, _LINE_PX, _LEFT_PX, _WIDTH_PX = 94, 20, 26, 846
_THUMBNAIL_PX = (100, 80)
_STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;fill:#c9d1d9;white-space:pre}
.prompt{fill:#7ee787}.command{fill:#fff;font-weight:600}.key{fill:#79c0ff}.log{fill:#7d8590}.answer{fill:#f2cc60}"""


def record() -> list[dict[str, Any]]:
    """Start the server as `make serve` does and send it the requests: each command and what it prints."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(serve_command("--model", "demo"), Path(folder, "log.txt")) as server,
    ):
        server.wait_until_ready()
        lines = (line.rstrip().replace(f"{ROOT}/", "") for line in server.log.splitlines())
        own = [*itertools.takewhile(lambda line: line.startswith(("phi-vision", "  ")), lines)]
        log = [*itertools.takewhile(lambda line: "Application startup complete" not in line, lines)]
        own.append(f"[{len(log) + 2} lines of vLLM's log, then:] Application startup complete.")
        steps: list[dict[str, Any]] = [{"command": 'make serve ARGS="--model demo"', "output": own}]
        for picture, command in REQUESTS.items():
            argv = [sys.executable, *shlex.split(command)[1:]]
            answer = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
            steps.append(
                {"command": command, "output": answer.splitlines(), "thumbnail": _thumbnail(picture)}
            )
    return steps


def _thumbnail(name: str) -> str:
    """A small copy of a test picture as base64 of a PNG; kept in the record, since encoders differ."""
    with Image.open(ROOT / "tests" / "images" / name) as picture:
        width, height = _THUMBNAIL_PX
        small = picture.convert("RGB").resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.quantize(16, dither=Image.Dither.NONE).save(encoded, "PNG", optimize=True)
    return base64.b64encode(encoded.getvalue()).decode()


def drawn(recorded: str) -> str:
    """The steps of a record as an SVG picture of a terminal."""
    parts, y = [], 66
    for step in json.loads(recorded):
        parts.append(_line(y, [("prompt", "$ "), ("command", step["command"])]))
        top = y + 10
        for line in step["output"]:
            y += _LINE_PX
            shown = line if len(line) <= _COLUMNS else line[: _COLUMNS - 1] + "…"
            parts.append(_line(y, [("answer", shown)] if "thumbnail" in step else _coloured(shown)))
        if "thumbnail" in step:
            width, height = _THUMBNAIL_PX
            parts.append(
                f'<image x="{_WIDTH_PX - _LEFT_PX - width}" y="{top}" width="{width}" height="{height}" '
                f'href="data:image/png;base64,{step["thumbnail"]}"/>'
            )
            y = max(y, top + height)
        y += 2 * _LINE_PX
    height = y - _LINE_PX
    dots = "".join(
        f'<circle cx="{30 + 22 * i}" cy="24" r="6.5" fill="{colour}"/>'
        for i, colour in enumerate(("#ff5f56", "#ffbd2e", "#27c93f"))
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height}" '
            f'width="{_WIDTH_PX}" height="{height}" xml:space="preserve">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH_PX}" height="{height}" rx="10" fill="#0d1117"/>{dots}',
            *parts,
            "</svg>\n",
        ]
    )


def _coloured(line: str) -> list[tuple[str, str]]:
    """The pieces of a line that the server prints, each with its class."""
    if row := re.match(r"(  \w[\w ]{9} )(.*)", line):
        return [("key", row[1]), ("", row[2])]
    if note := re.match(r"(\[.*\])(.*)", line):
        return [("log", note[1]), ("", note[2])]
    return [("answer" if "*" in line else "command", line)]


def _line(y: int, pieces: list[tuple[str, str]]) -> str:
    spans = (f'<tspan class="{name}">{html.escape(text, quote=False)}</tspan>' for name, text in pieces)
    return f'<text x="{_LEFT_PX}" y="{y}">{"".join(spans)}</text>'


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1) + "\n")
