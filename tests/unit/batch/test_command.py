"""`phi-vision batch` and a server whose answers are known."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet
import pytest
from phi_vision.batch import inputs
from phi_vision.cli import batch as command
from phi_vision.cli import main
from phi_vision.cli.servers import Found
from phi_vision.client.exchange import Endpoint
from phi_vision.errors import PhiVisionError
from phi_vision.media.pdf import extract_page

from tests.support.answering_server import AnsweringServer, text_of
from tests.support.pdf import Page, pdf
from tests.support.pictures import encoded, image_part, reference_picture, user
from tests.support.serving import eventually

THREE_PAGES = pdf(*[Page(size=(100 + n, 100)) for n in range(3)])


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("answering")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are as a user would write them. The workers import the package from where it is."""
    monkeypatch.setenv("PYTHONPATH", str(Path(inputs.__file__).parents[2]))
    monkeypatch.chdir(tmp_path)


class Outcome:
    """How a call of the command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def summary(self) -> dict[str, Any]:
        """The one line of stdout."""
        [line] = self.out.splitlines()
        summary: dict[str, Any] = json.loads(line)
        return summary


@pytest.fixture
def batch(answering: AnsweringServer, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    def run(*arguments: str, servers: Sequence[str] = (answering.base_url,)) -> Outcome:
        named = [part for url in servers for part in ("--base-url", url)]
        code = main.main(["batch", "--output", "out", *arguments, *named])
        return Outcome(code, *capfd.readouterr())

    yield run
    answering.mend()


def pictures(count: int, folder: str = "scans", first: int = 0) -> dict[str, str]:
    """Files and what they are answered with, by key."""
    Path(folder).mkdir(exist_ok=True)
    texts = {}
    for seed in range(first, first + count):
        path = Path(folder, f"{seed:02}.png")
        path.write_bytes(encoded(reference_picture(40, 30, seed)))
        texts[str(path)] = text_of(path.read_bytes())
    return texts


def results() -> dict[str, str | None]:
    """The texts in `results.jsonl`, by key."""
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row["text"] for row in rows}


def test_a_folder_with_a_document_and_a_broken_file(batch: Callable[..., Outcome]) -> None:
    texts: dict[str, str | None] = {**pictures(2)}
    Path("scans/b.pdf").write_bytes(THREE_PAGES)
    Path("scans/c.png").write_bytes(b"broken")
    for page in range(3):
        texts[f"scans/b.pdf#{page + 1}"] = text_of(extract_page(THREE_PAGES, page), 1)
    texts["scans/c.png"] = None

    done = batch("scans", "--format", "jsonl,md", "--format", "txt,parquet")
    assert done.code == 1, done.err
    assert results() == texts
    summary = done.summary
    assert (summary["items"], summary["done"], summary["failed"], summary["waiting"]) == (6, 5, 1, 0)
    assert summary["seconds"] >= 0 and summary["pages_per_s"] >= 0  # rounded, and it may be quick
    names = ["results.jsonl", "results.md", "results.txt", "results.parquet", "report.html"]
    assert summary["files"] == [f"out/{name}" for name in names] and all(
        map(os.path.exists, summary["files"])
    )
    rows = pyarrow.parquet.read_table("out/results.parquet").to_pylist()
    assert {row["key"]: row["text"] for row in rows} == texts
    assert "--- scans/b.pdf, page 3 of 3 ---\n" in Path("out/results.txt").read_text()
    assert "## scans/c.png (failed: it is none of" in Path("out/results.md").read_text()


def test_what_is_done_is_not_asked_again(batch: Callable[..., Outcome], answering: AnsweringServer) -> None:
    texts = pictures(3)
    assert batch("scans").code == 0
    before = answering.asks
    again = batch("scans", "--resume")
    assert again.code == 0 and again.summary["done"] == 3 and answering.asks == before
    new = pictures(2, "more", first=50)
    assert batch("scans", "more").code == 0
    assert results() == texts | new
    assert Counter(answering.asks) - Counter(before) == Counter(new.values())


def test_without_an_input_it_goes_on_from_wherever(
    batch: Callable[..., Outcome], answering: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pictures(2)
    answering.fail("500", count=None, text=texts["scans/01.png"])
    assert batch("scans").code == 1
    answering.mend()
    again = batch()
    assert again.code == 1 and again.summary["failed"] == 1
    done = batch("--retry-failed")
    assert done.code == 0 and results() == texts


def test_a_document_that_was_mended_has_all_its_pages(batch: Callable[..., Outcome]) -> None:
    Path("a.pdf").write_bytes(THREE_PAGES[:100])
    assert batch("a.pdf").code == 1 and results() == {"a.pdf#1": None}
    Path("a.pdf").write_bytes(THREE_PAGES)
    assert batch("a.pdf", "--retry-failed").code == 0
    assert results() == {f"a.pdf#{n + 1}": text_of(extract_page(THREE_PAGES, n), 1) for n in range(3)}


def test_a_document_is_fetched_once_and_kept_until_all_is_done(
    batch: Callable[..., Outcome], answering: AnsweringServer
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_GET(self) -> None:
            self.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(THREE_PAGES)

        def log_message(self, *args: object) -> None: ...

    texts = [text_of(extract_page(THREE_PAGES, page), 1) for page in range(3)]
    answering.fail("400", text=texts[2])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{host.server_port}/a.pdf"
        assert batch(url).code == 1
        assert list(results().values()) == [*texts[:2], None] and len(os.listdir("out/fetched")) == 1
        assert batch(url, "--retry-failed").code == 0
        host.shutdown()
    assert results() == {f"{url}#{page + 1}": text for page, text in enumerate(texts)}
    assert Handler.asked == ["/a.pdf"] and not os.path.exists("out/fetched")


def test_errors_end_it_early(batch: Callable[..., Outcome], answering: AnsweringServer) -> None:
    pictures(8)
    answering.fail("400", count=None)
    done = batch("scans", "--max-errors", "2", "--concurrency", "1")
    assert done.code == 1
    assert (done.summary["failed"], done.summary["waiting"]) == (2, 6)


def test_the_lines_of_a_batch_file(batch: Callable[..., Outcome]) -> None:
    def line(custom_id: str, model: str) -> str:
        body = {"model": model, "messages": [user(image_part(reference_picture(40, 30, 1)))]}
        request = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(request) + "\n"

    Path("requests.jsonl").write_text(line("a", "x") + line("b", "x"))
    done = batch("requests.jsonl")
    assert done.code == 0, done.err
    assert done.summary["files"] == ["out/results.jsonl", "out/errors.jsonl", "out/report.html"]
    assert done.summary["requests_per_s"] > 0
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [each["custom_id"] for each in lines] == ["a", "b"]
    text = text_of(encoded(reference_picture(40, 30, 1)))
    for each in lines:
        assert each["response"]["status_code"] == 200
        assert each["response"]["body"]["choices"][0]["message"]["content"] == text
    assert Path("out/errors.jsonl").read_text() == ""


def test_a_prompt_and_a_schema_are_sent(batch: Callable[..., Outcome]) -> None:
    texts = pictures(1)
    Path("schema.json").write_text('{"type": "object"}')
    assert batch("scans", "--prompt", "What is the total?", "--schema", "schema.json").code == 0
    assert results() == texts
    refused = batch("scans", "--task", "caption")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "phi-vision batch: out holds a run with another --task; name another folder\n"


def test_several_servers(
    batch: Callable[..., Outcome], answering: AnsweringServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with AnsweringServer(tmp_path_factory.mktemp("second")) as second:
        second.wait_until_ready()
        texts = pictures(6)
        assert batch("scans", servers=(answering.base_url, second.base_url)).code == 0
        assert results() == texts and sum(second.asks.values()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "out holds no run: name an INPUT"),
        (("missing.png",), "cannot read missing.png: there is no such file"),
        (("empty",), "there is no picture and no document"),
        (("a.png", "b.jsonl"), "not both"),
        (("a.png", "--task", "vqa"), "needs a question"),
        (("a.png", "--schema", "missing.json"), "cannot read missing.json"),
        (("a.png", "--schema", "a.png"), "a.png is not JSON"),
        (("a.png", "--schema", "list.json"), "is not a JSON object"),
        (("b.jsonl", "--format", "txt"), "written as jsonl only"),
        (("b.jsonl",), "b.jsonl, line 1: it is not JSON"),
        (("a.png", "--device", "mps"), "Apple silicon"),
        (("b.jsonl", "--column", "path"), "--column is for .csv and .parquet files"),
        (("--column", "path"), "--column is for .csv and .parquet files"),
        (("a.png", "--ray-servers", "2"), "--ray-servers goes with --ray, and not with --base-url"),
        (("a.png", "--ray", "local", "--ray-servers", "2"), "not with --base-url"),
        (("a.png", "--output", "a.png"), "cannot make the folder a.png: File exists"),
    ],
)
def test_mistakes_are_one_line(
    batch: Callable[..., Outcome], arguments: tuple[str, ...], message: str
) -> None:
    Path("a.png").write_bytes(b"\xff")
    Path("b.jsonl").write_text("{")
    Path("list.json").write_text("[]")
    Path("empty").mkdir()
    refused = batch(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "pdf"), "'pdf' is no list of jsonl, md, txt, parquet"),
        (("--format", ""), "is no list of"),
        (("--concurrency", "0"), "'0' is not a number from 1"),
        (("--concurrency", "257"), "at most 256"),
        (("--max-errors", "-1"), "'-1' is not a number from 1"),
    ],
)
def test_options_are_checked(
    arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["batch", "a.png", "--output", "out", *arguments])
    assert ended.value.code == 2 and message in capfd.readouterr().err


def test_a_server_that_is_not_there_is_one_line(batch: Callable[..., Outcome]) -> None:
    pictures(1)
    refused = batch("scans", servers=("http://127.0.0.1:1/v1",))
    assert refused.code == 2 and refused.err.count("\n") == 1 and "http://127.0.0.1:1/v1" in refused.err


def test_an_own_server_that_ends_ends_the_run(
    answering: AnsweringServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = pictures(3)
    first = text_of(Path("scans/00.png").read_bytes())
    answering.fail("503", count=None, text=texts["scans/01.png"])

    class Ended:
        def check_running(self) -> None:
            raise PhiVisionError("the server has ended: out of memory")

    @contextlib.contextmanager
    def found(*_: Any) -> Iterator[Found]:
        own: Any = Ended()
        yield Found([Endpoint(answering.base_url)], own)

    monkeypatch.setattr(command, "find_servers", found)
    assert main.main(["batch", "scans", "--output", "out", "--concurrency", "1"]) == 3
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.endswith(
        "phi-vision batch: the server has ended: out of memory\n"
    )
    assert results() == {"scans/00.png": first}  # what was done is kept, and written
    answering.mend()


# In a process of its own ------------------------------------------------------------------------------


def _take_signals() -> None:
    """In the command: a shell's background job and `nohup` hand on ignored ones, which stay so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def started(answering: AnsweringServer, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-m", "phi_vision", "batch", *arguments, "--output", "out"]
    with subprocess.Popen(
        [*program, "--base-url", answering.base_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_take_signals,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Hanging:
    """Pictures of which the last is not answered. With one request at a time, all others are before it."""

    def __init__(self, answering: AnsweringServer) -> None:
        self._answering = answering
        self.texts = pictures(5)
        self._last = self.texts["scans/04.png"]
        self.before = answering.asks
        answering.fail("hang", count=None, text=self._last)

    def until_the_last(self) -> None:
        """Wait until it is asked."""
        eventually(lambda: self._answering.asks.get(self._last, 0) > self.before.get(self._last, 0))


@pytest.fixture
def hanging(answering: AnsweringServer) -> Iterator[Hanging]:
    yield Hanging(answering)
    answering.mend()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_at_once_and_it_goes_on(
    answering: AnsweringServer, hanging: Hanging, batch: Callable[..., Outcome], number: signal.Signals
) -> None:
    with started(answering, "scans", "--concurrency", "1") as process:
        hanging.until_the_last()
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert "run the same command again to go on" in err and "Traceback" not in err
    summary = json.loads(out)
    assert (summary["done"], summary["waiting"]) == (4, 1)
    assert results() == dict(list(hanging.texts.items())[:4])
    answering.mend()
    assert batch("scans").code == 0 and results() == hanging.texts


def test_after_a_kill_it_goes_on_where_it_was(
    answering: AnsweringServer, hanging: Hanging, batch: Callable[..., Outcome]
) -> None:
    with started(answering, "scans", "--concurrency", "1") as process:
        hanging.until_the_last()
        process.kill()
        process.wait()
    answering.mend()
    assert batch("scans").code == 0 and results() == hanging.texts
    times = [answering.asks[text] - hanging.before.get(text, 0) for text in hanging.texts.values()]
    assert times == [1, 1, 1, 1, 2]


def test_a_second_run_on_the_folder_is_refused(
    answering: AnsweringServer, hanging: Hanging, batch: Callable[..., Outcome]
) -> None:
    with started(answering, "scans", "--concurrency", "1"):
        hanging.until_the_last()
        refused = batch("scans")
    assert refused.code == 2 and "another run is at work" in refused.err and refused.err.count("\n") == 1
