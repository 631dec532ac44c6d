"""The command line: light, and clear about mistakes."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.pictures import encoded


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi_vision", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.new("RGB", (40, 30), "red")))
    return str(path)


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_help_needs_nothing_heavy() -> None:
    heavy = {"vllm", "torch", "transformers", "openai", "PIL", "httpx", "aiohttp", "huggingface_hub"}
    code = (
        "import sys; from phi_vision.cli import main; main.parser().format_help();"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_no_default_is_shown_where_there_is_none() -> None:
    commands = ("serve", "plan", "predict", "batch", "doctor")
    shown = " ".join(
        subprocess.check_output([sys.executable, "-m", "phi_vision", c, "--help"], text=True)
        for c in commands
    )
    assert "(default: )" not in shown and "(default: None)" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--image", "missing.png"], "cannot read missing.png"),
        (["predict", "--image", __file__], "not a picture"),
        (["predict", "--image", "DEAF/x.png"], "cannot fetch"),
        (["predict", "--image", "PICTURE", "--task", "vqa"], "--prompt"),
        (["predict", "--image", "PICTURE", "--output", "/nowhere/at/all.txt"], "cannot write"),
        (["predict", "--image", "PICTURE", "--output", "."], "it is a folder"),
        (["predict", "--image", "PICTURE", "--base-url", "DEAF/v1"], "no server answers"),
        (["predict", "--image", "PICTURE", "--device", "mps"], "Apple silicon"),
        (["predict", "--image", "PICTURE", "--task", "translate"], "invalid choice"),
        (["predict", "--image", "PICTURE", "--frobnicate"], "unrecognized arguments"),
        (["predict"], "--image"),
        (["batch", "x.png"], "--output"),
        (["batch", "missing.png", "--output", "/nowhere/at/all"], "cannot read missing.png"),
        (["serve", "--port", "0", "--model", "./no-such-folder"], "no config.json"),
        (["serve", "--num-crops", "99"], "--num-crops must be from 1 to 16"),
        (["serve", "--device", "mps"], "Apple silicon"),
        (["frobnicate"], "invalid choice"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], said: str, picture: str, deaf: str
) -> None:
    done = run(*(a.replace("PICTURE", picture).replace("DEAF", deaf) for a in arguments))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"phi-vision( \w+)?: ", last)


@pytest.mark.parametrize("command", [["plan", "--gpu", "a10"], ["serve", "--dry-run", "--model", "demo"]])
def test_a_reader_that_leaves_early_ends_it_quietly(command: list[str]) -> None:
    """`phi-vision plan | head -1`, with the reader gone before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-m", "phi_vision", *command]
    try:
        done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
