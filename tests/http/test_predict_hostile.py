"""`phi-vision predict` and a server, a host or a file that means harm: one line, no traceback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from phi_vision.cli import main, servers, terminal
from phi_vision.cli import predict as command
from phi_vision.client import chat, process, sending, text
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError

from tests.support.hostile_server import END, FakeServer, answer, piece, sse
from tests.support.pictures import encoded, reference_picture

PICTURE = reference_picture(40, 30, seed=0)
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202etxt.exe\u2066 \x7f"
HARMLESS = "\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m\\u000d\\u202etxt.exe\\u2066 \\u007f"


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PICTURE))
    return str(path)


@pytest.fixture(autouse=True)
def _no_server_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def predict(fake: FakeServer, picture: str, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command against the fake server: exit code, stdout, stderr."""

    def run(*arguments: str, image: str = picture, base_url: str | None = None) -> tuple[int, str, str]:
        code = main.main(["predict", "--image", image, "--base-url", base_url or fake.base_url, *arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def refused(outcome: tuple[int, str, str], code: int, words: str) -> None:
    """One line on stderr, nothing that a terminal would act on."""
    assert outcome[0] == code, outcome
    assert outcome[2].count("\n") == 1 and outcome[2].endswith("\n") and words in outcome[2], outcome
    assert text.visible(outcome[2]) == outcome[2] and len(outcome[2]) < 2 * text.MAX_LINE_CHARS


# What a server sends as text


def test_control_characters_do_not_reach_the_terminal(predict: Any, fake: FakeServer) -> None:
    fake.reply = answer(f"a\tb\n{EVIL}\u2028é漢👩‍💻")
    assert predict() == (0, f"a\tb\n{HARMLESS}\\u2028é漢👩‍💻\n", "")


def test_output_and_json_are_exact(predict: Any, fake: FakeServer, tmp_path: Path) -> None:
    fake.reply = answer(EVIL)
    assert predict("--output", str(tmp_path / "a.txt"))[0] == 0
    assert (tmp_path / "a.txt").read_bytes().decode() == EVIL + "\n"
    code, printed, _ = predict("--format", "json")
    assert code == 0 and json.loads(printed)["text"] == EVIL
    assert text.visible(printed) == printed
    assert predict("--format", "json", "--output", str(tmp_path / "a.json"))[0] == 0
    assert json.loads((tmp_path / "a.json").read_text())["text"] == EVIL


def test_half_of_a_surrogate_pair_is_shown_and_written(
    predict: Any, fake: FakeServer, tmp_path: Path
) -> None:
    fake.reply = sse(json.dumps(piece("a\ud83d", "stop"))) + END
    assert predict() == (0, "a\\ud83d\n", "")
    assert predict("--output", str(tmp_path / "a.txt"))[0] == 0
    assert (tmp_path / "a.txt").read_text() == "a\\ud83d\n"
    assert json.loads(predict("--format", "json")[1])["text"] == "a\ud83d"


@pytest.mark.parametrize("status", ["400 Bad", "500 Bad"])
def test_a_refusal_is_one_harmless_line(predict: Any, fake: FakeServer, status: str) -> None:
    fake.status, code = status, 2 if status[0] == "4" else 3
    fake.reply = json.dumps({"error": {"message": f"no\n{EVIL}"}})
    refused(predict(), code, "\\u001b]0;owned")
    for body in ("x" * 10, json.dumps({"error": {"message": "y" * 100_000}}), "[" * 100_000, '{"error": 1}'):
        fake.reply = body
        refused(predict(), code, "the server refused: " if code == 2 else "the server failed: ")


def test_an_error_within_the_stream_is_one_harmless_line(predict: Any, fake: FakeServer) -> None:
    fake.reply = sse(piece("half"), {"error": {"message": f"engine{EVIL}"}})
    outcome = predict()
    refused(outcome, 3, "the server broke off: engine\\u001b")
    assert outcome[1] == "half\n"


def test_the_last_words_of_an_own_engine_are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"print('early'); print({EVIL!r} + 'the end' + 'x' * 10**6); raise SystemExit(3)"
    monkeypatch.setattr(process, "serve_command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(UsageError, match="the server did not start: ") as raised, process.local_server("cpu"):
        pass
    assert text.visible(str(raised.value)) == str(raised.value) and len(str(raised.value)) < 600


def test_a_start_that_fails_is_a_line_of_its_own(
    picture: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    @contextlib.contextmanager
    def failing(device: str, on_wait: Callable[[float, str], None]) -> Iterator[None]:
        on_wait(1.0, "loading")
        raise process.ServerStartError("no luck")
        yield

    monkeypatch.setattr(servers, "local_process", failing)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening: no server is there
        monkeypatch.setattr(ServeConfig, "port", closed.getsockname()[1])
        assert main.main(["predict", "--image", picture]) == 2
    assert capfdbinary.readouterr().err.split(b"\n")[-2] == b"phi-vision predict: no luck"


def test_an_ascii_terminal_gets_ascii(fake: FakeServer, picture: str) -> None:
    fake.reply = answer("é")
    done = subprocess.run(
        [sys.executable, "-m", "phi_vision", "predict", "--image", picture, "--base-url", fake.base_url],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\xe9\n", b"")


# What a server sends as protocol

ODD_STREAMS: dict[str, str | bytes] = {
    "not JSON": sse("{nonsense") + END,
    "a list": sse("[1]") + END,
    "too deep": sse("[" * 100_000) + END,
    "a huge number": sse('{"model": ' + "9" * 10_000 + "}"),
    "NaN": sse('{"model": NaN, "choices": []}') + END,
    "not UTF-8": b'data: {"model": "\xff\xfe"}\n\n',
    "no choices": sse({"model": "x"}) + END,
    "null choices": sse({"model": "x", "choices": None}) + END,
    "choices of numbers": sse({"model": "x", "choices": [1]}) + END,
    "null delta": sse({"model": "x", "choices": [{"delta": None}]}) + END,
    "content of numbers": sse(piece(7)) + END,
    "no model": sse({"choices": []}) + END,
    "usage as text": sse(piece("a", "stop", usage="much")) + END,
    "a line without an end": b"data: " + b"x" * (chat.MAX_LINE_BYTES + 1),
    "cut off": sse(piece("half")),
    "empty": b"",
    "done at once": END,
}


@pytest.mark.parametrize("name", ODD_STREAMS)
def test_an_odd_stream_is_one_line(predict: Any, fake: FakeServer, name: str) -> None:
    fake.reply = ODD_STREAMS[name]
    refused(predict(), 3, "the server")


@pytest.mark.parametrize("endless", [b": keep-alive\n\n", sse(piece("x")).encode(), b"x", b"\n"])
def test_an_endless_stream_ends(
    predict: Any, fake: FakeServer, endless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MAX_STREAM_BYTES", 3 * chat.MAX_LINE_BYTES)
    fake.reply = itertools.repeat(endless * 10_000)
    refused(predict(), 3, "the server's answer is not understood: ")


def test_a_stream_that_drips_ends(predict: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ANSWER_TIMEOUT_S", 0)
    refused(predict(), 3, "it does not end")


def test_an_answer_that_is_no_stream_or_compressed(predict: Any, fake: FakeServer) -> None:
    fake.headers = {"Content-Type": "application/json"}
    refused(predict(), 3, "it is not a stream")
    fake.headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    fake.reply = zlib.compress(bytes(10_000_000))
    refused(predict(), 3, "it is compressed")


ODD_NUMBERS = ["abc", "", "1,2", "1" * 5000, "-1", "1.5", "\xb2", "0x10", "1,", " "]


@pytest.mark.parametrize("name", ["x-phi-vision-num-crops", "x-phi-vision-image-tokens"])
@pytest.mark.parametrize("value", ODD_NUMBERS, ids=lambda value: repr(value)[:20])
def test_an_odd_header_is_one_line(predict: Any, fake: FakeServer, name: str, value: str) -> None:
    fake.headers[name] = value
    refused(predict(), 3, f"not understood: its header {name} is")


def test_headers_beyond_all_measure(predict: Any, fake: FakeServer) -> None:
    fake.headers["x-phi-vision-num-crops"] = "1," * 200_000
    refused(predict(), 3, "the exchange with the server failed: RemoteProtocolError")


@pytest.mark.parametrize(
    "models",
    [[1], [{}], [{"id": 7}], {"id": "x"}, None, [{"id": "x" * sending.MAX_BODY_BYTES}]],
    ids=lambda models: repr(models)[:20],
)
def test_an_odd_list_of_models_is_one_line(predict: Any, fake: FakeServer, models: Any) -> None:
    fake.models = models
    refused(predict(), 3, "the server's answer is not understood")


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("127.0.0.1:8000", 2, "is not an http or https address"),
        ("ftp://127.0.0.1/v1", 2, "is not an http or https address"),
        ("http://[::1", 2, "is not an http or https address"),
        ("http://127.0.0.1:99999/v1", 2, "no server answers"),
    ],
)
def test_an_odd_base_url_is_one_line(predict: Any, url: str, code: int, said: str) -> None:
    refused(predict(base_url=url), code, said)


ODD_PAGES: dict[str, Any] = {
    "no JSON": "hello",
    "a list": [],
    "no pages": {"model": "x"},
    "no page": {"model": "x", "pages": []},
    "two pages": {"model": "x", "pages": [{"markdown": "a"}, {"markdown": "b"}]},
    "no text": {"model": "x", "pages": [{"status": "complete"}]},
    "text of numbers": {"model": "x", "pages": [{"markdown": 7}]},
    "no model": {"pages": [{"markdown": "a"}]},
    "confidence beyond all measure": {
        "model": "x",
        "pages": [{"markdown": "a", "confidence_scores": {"average_page_confidence_score": 7}}],
    },
    "too large": {"model": "x", "pages": [{"markdown": "a" * sending.MAX_BODY_BYTES}]},
    "not read": {"model": "x", "pages": [{"markdown": "", "status": "failed", "error": EVIL}]},
}


@pytest.mark.parametrize("name", ODD_PAGES)
def test_an_odd_page_is_one_line(predict: Any, fake: FakeServer, name: str) -> None:
    fake.read_pages = [ODD_PAGES[name]]
    refused(predict("--task", "ocr"), 3, "the page was not read" if name == "not read" else "not understood")


def test_a_page_is_harmless_at_a_terminal(predict: Any, fake: FakeServer) -> None:
    fake.read_pages = [{"model": "x", "pages": [{"markdown": EVIL}]}]
    assert predict("--task", "ocr") == (0, f"{HARMLESS}\n", "")


# Names and keys


def test_the_servers_own_model_name_is_used(predict: Any, fake: FakeServer) -> None:
    assert predict("--task", "ocr")[0] == 0
    assert fake.asked[0]["model"] == "mine:ocr"
    fake.models = [{"id": "other"}]
    refused(predict(), 2, "does not do the task caption; its tasks: none")
    fake.tasks = [{"id": "caption", "models": ["plain", "other"]}, {"id": "ocr", "models": ["text"]}]
    assert predict()[0] == 0
    assert fake.asked[1]["model"] == "plain"
    refused(predict("--task", "vqa", "--prompt", "?"), 2, "its tasks: caption, ocr")


@pytest.mark.parametrize(
    "tasks", [[1], [{}], [{"id": "caption"}], [{"id": "caption", "models": []}], {"id": 1}]
)
def test_odd_tasks_are_as_good_as_none(predict: Any, fake: FakeServer, tasks: Any) -> None:
    fake.tasks = tasks
    assert predict()[0] == 0
    assert fake.asked[0]["model"] == "mine:caption"


# A server that is busy

BUSY, STARTING = ("429 Busy", {"Retry-After": "2"}), ("503 Starting", {"Retry-After": "7"})


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `predict` would have slept, in seconds."""
    waits: list[float] = []
    monkeypatch.setattr(command, "Retry", partial(sending.Retry, sleep=waits.append))
    return waits


def test_a_busy_server_is_asked_again_when_it_says(
    predict: Any, fake: FakeServer, slept: list[float]
) -> None:
    fake.refusals = [BUSY, STARTING, ("429 Busy", {"Retry-After": "0"})]
    code, printed, said = predict()
    assert (code, printed, slept) == (0, "hello\n", [2, 7, 1])
    assert said.splitlines()[:2] == [
        "phi-vision: busy; trying again in 2 s",
        "phi-vision: busy; trying again in 7 s",
    ]
    assert len(fake.asked) == 4 and fake.asked[0] == fake.asked[3]


def test_a_date_to_come_back_is_understood(predict: Any, fake: FakeServer, slept: list[float]) -> None:
    past = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    fake.refusals = [("429 Busy", past)]
    assert predict()[0] == 0
    assert slept == [1]


def test_waiting_for_a_busy_server_ends(predict: Any, fake: FakeServer, slept: list[float]) -> None:
    fake.refusals = [("429 Busy", {"Retry-After": "140"})] * 9
    code, _, said = predict()
    assert code == 2 and said.endswith("the server refused: busy\n")
    assert slept == [140, 140] and sending.Retry().max_wait_s == 300


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "9999999", "1" * 5000, EVIL[:8]])
def test_a_busy_server_that_does_not_say_when_is_not_asked_again(
    predict: Any, fake: FakeServer, slept: list[float], value: str | None
) -> None:
    for status, code in (("429 Busy", 2), ("503 Starting", 3)):
        fake.refusals = [(status, {} if value is None else {"Retry-After": value})]
        refused(predict(), code, "the server refused: busy" if code == 2 else "the server failed: busy")
    assert not slept


def test_the_key_goes_only_to_a_server_that_the_user_named(
    predict: Any, fake: FakeServer, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-users-key")
    assert predict()[0] == 0
    assert set(fake.keys) == {"Bearer the-users-key"}
    fake.keys.clear()
    monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
    assert main.main(["predict", "--image", picture]) == 0
    assert set(fake.keys) == {"Bearer the-users-key"}
    fake.keys.clear()
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setattr(ServeConfig, "port", fake.port)
    assert main.main(["predict", "--image", picture]) == 0
    assert set(fake.keys) == {None}


def test_a_server_on_the_default_port_that_wants_a_key_is_named(
    fake: FakeServer, picture: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ServeConfig, "port", fake.port)
    fake.status, fake.reply = "401 Unauthorized", '{"error": "Unauthorized"}'
    assert main.main(["predict", "--image", picture]) == 2
    assert "name it with --base-url" in capsys.readouterr().err


def test_a_key_is_not_sent_on_to_where_a_server_redirects(predict: Any, fake: FakeServer) -> None:
    fake.status, fake.headers = "307 Elsewhere", {"Location": f"http://localhost:{fake.port}/v1"}
    refused(predict(), 2, "redirects to http://localhost:")


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_a_key_that_is_no_header_is_one_line_without_it(
    predict: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    outcome = predict()
    refused(outcome, 2, "the API key has characters")
    assert key not in outcome[2]


def test_signals_end_what_the_command_began() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        before = signal.signal(number, signal.SIG_DFL)  # `nohup`, for one, hands on an ignored SIGHUP
        try:
            with pytest.raises(SystemExit) as ended, terminal.exit_on_signals():
                signal.raise_signal(number)
            assert ended.value.code == 128 + number
            assert signal.getsignal(number) is signal.SIG_DFL
        finally:
            signal.signal(number, before)


def test_an_own_engine_does_not_outlive_the_command(tmp_path: Path) -> None:
    """Killed, it cannot stop its engine; the system does."""
    engine = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    program = (
        "import sys; from phi_vision.client import process\n"
        f"process.serve_command = lambda *_: [sys.executable, '-c', {engine!r}]\n"
        "def wait(server, **_): print(server.process.pid, flush=True); sys.stdin.read()\n"
        "process.ServerProcess.wait_until_ready = wait\n"
        "with process.local_server('cpu'): pass"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as command_process:
        assert command_process.stdout is not None
        pid = int(command_process.stdout.readline())
        command_process.kill()
    with contextlib.suppress(FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
            time.sleep(0.02)


def test_an_answer_that_cannot_be_printed(fake: FakeServer, picture: str) -> None:
    fake.reply = answer("hello")
    arguments = [
        sys.executable,
        "-m",
        "phi_vision",
        "predict",
        "--image",
        picture,
        "--base-url",
        fake.base_url,
    ]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "phi-vision predict: cannot write the answer: No space left on device\n",
    )
