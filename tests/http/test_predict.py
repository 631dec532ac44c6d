"""`phi-vision predict` through a running server."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from phi_vision.cli import main, servers
from phi_vision.client import chat, exchange, process
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.tasks.presets import PRESETS

from tests.support.pdf import Page, pdf, text_page
from tests.support.serving import Server
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import StubServer, stub_program

IMAGES = Path(__file__).parents[1] / "images"
INVOICE = str(IMAGES / "invoice.png")
SCENE = str(IMAGES / "scene.jpg")


def predict(server: Server, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi_vision", "predict", *arguments]
    env = {**os.environ, "OPENAI_BASE_URL": server.base_url, **env}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_json_has_everything(stub: StubServer) -> None:
    done = predict(stub, "--image", INVOICE, "--task", "ocr", "--format", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["task"] == "ocr" and result["prompt"] == PRESETS["ocr"].prompt
    assert result["model"] == "phi-3.5-vision-demo" and "DEMO" in done.stderr
    assert result["images"] == [{"name": INVOICE, "width": 800, "height": 600, "crops": None, "tokens": None}]
    assert result["usage"]["prompt_tokens"] > 1921 and result["usage"]["completion_tokens"] > 0
    assert result["seconds"] > 0 and (result["text"], result["status"]) == (ANSWER, "complete")
    assert (
        (result["rotation"], result["tiles"]) == (0, 1) and result["attempts"] and result["confidence"] > 0.9
    )


def test_json_of_a_chat_has_everything(stub: StubServer) -> None:
    done = predict(stub, "--image", INVOICE, "--format", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] == [{"name": INVOICE, "width": 800, "height": 600, "crops": 16, "tokens": 1921}]
    assert result["usage"]["prompt_tokens"] > 1921 and result["usage"]["completion_tokens"] > 0
    assert (result["finish_reason"], result["status"]) == ("stop", "complete")


def test_txt_is_the_answer_alone(stub: StubServer) -> None:
    question = ("--image", SCENE, "--task", "vqa", "--prompt", "What is in the sky?")
    shown = predict(stub, *question)
    as_json = predict(stub, *question, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == json.loads(as_json.stdout)["text"] + "\n"


def test_several_pictures_one_by_url(stub: StubServer) -> None:
    class Folder(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(IMAGES))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Folder) as host:
        Thread(target=host.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{host.server_port}/chart.png"
        done = predict(stub, "--image", INVOICE, "--image", url, "--format", "json", "--prompt", "Compare.")
        host.shutdown()
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout)["images"]
    assert [i["name"] for i in images] == [INVOICE, url]
    assert [i["crops"] for i in images] == [4, 4]


def test_pages_of_a_pdf_are_read_at_full_crops(stub: StubServer, tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf(Page(), text_page("HELLO", size=(800, 600)), Page(size=(800, 600))))
    done = predict(stub, "--image", str(path), "--pages", "2-3", "--task", "ocr", "--format", "json")
    assert done.returncode == 0, done.stderr
    read, blank = map(json.loads, done.stdout.splitlines())
    assert (read["text"], read["status"], read["images"][0]["page"]) == (ANSWER, "complete", 2)
    assert read["usage"]["prompt_tokens"] > 1921
    assert (blank["text"], blank["status"], blank["images"][0]["page"]) == ("", "blank", 3)
    assert "page 3: blank" in done.stderr and "page 2:" not in done.stderr


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_output_is_written_whole(stub: StubServer, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "answer"
    done = predict(stub, "--image", SCENE, "--output", str(output), "--format", kind)
    assert done.returncode == 0 and not done.stdout
    assert output.read_text().endswith("\n")
    assert [p.name for p in tmp_path.iterdir()] == ["answer"]
    assert kind == "txt" or json.loads(output.read_text())["task"] == "caption"


def test_what_the_server_refuses_is_one_line(stub: StubServer) -> None:
    done = predict(stub, *["--image", SCENE] * 17)
    assert done.returncode == 2
    assert done.stderr == "phi-vision predict: the server refused: 17 pictures; at most 16 in one request\n"


def test_an_own_server_answers_with_a_key_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[exchange.Endpoint] = []

    @contextmanager
    def watched(*args: Any, **options: Any) -> Iterator[tuple[process.ServerProcess, exchange.Endpoint]]:
        with process.local_process(*args, **options) as (own, endpoint):
            started.append(endpoint)
            yield own, endpoint

    stub = [sys.executable, *stub_program(tmp_path)]
    monkeypatch.setattr(process, "serve_command", lambda *flags: [*stub, *flags])
    monkeypatch.setattr(servers, "local_process", watched)
    monkeypatch.setenv("VLLM_API_KEY", "the-users-key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening: no server is there
        monkeypatch.setattr(ServeConfig, "port", closed.getsockname()[1])
        code = main.main(["predict", "--image", INVOICE, "--task", "ocr", "--device", "cpu"])
    printed = capsys.readouterr()
    assert (code, printed.out) == (0, ANSWER + "\n"), printed.err
    assert "engine ready" in printed.err
    [own] = started
    assert own.key is not None and len(own.key) > 40
    with pytest.raises(UsageError, match="no server answers"):
        chat.served_models(own)


@pytest.mark.full
def test_without_a_server_it_starts_its_own_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test above with the real engine."""
    output = tmp_path / "answer.json"
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))  # the demo, whatever is cached here
    arguments = ["--image", INVOICE, "--task", "ocr", "--format", "json", "--output", str(output)]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening: no server is there
        monkeypatch.setattr(ServeConfig, "port", closed.getsockname()[1])
        code = main.main(["predict", *arguments])
    printed = capsys.readouterr().err
    assert code == 0, printed
    assert "starting an engine" in printed and "DEMO" in printed
    result = json.loads(output.read_text())
    assert result["status"] == "complete" and result["usage"]["prompt_tokens"] > 1921
