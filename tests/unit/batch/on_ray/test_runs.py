"""`phi-vision batch --ray`: a cluster of this machine, and processes that end where they should not."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from demo_training.pictures import PRINT_EM, draw_text
from phi_vision.batch import inputs
from phi_vision.media.pdf import extract_page

from tests.support.answering_server import AnsweringServer, text_of
from tests.support.pdf import Page, pdf
from tests.support.pictures import encoded, reference_picture
from tests.support.ray_cluster import connected_processes, running_cluster
from tests.support.serving import eventually

pytestmark = [pytest.mark.slow, pytest.mark.full]

PACKAGE = Path(inputs.__file__).parents[2]
FORMATS = ("jsonl", "md", "txt", "parquet")
NUM_PAGES = 40
HELD = encoded(draw_text(Random("held"), em=PRINT_EM, lines=(1, 1), max_chars=8).image)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # Its processes import the package from where it is, and make their folders here.
        patch.setenv("PYTHONPATH", f"{PACKAGE}{os.pathsep}{PACKAGE.parent}")
        with running_cluster() as address:
            yield address


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("another")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def texts() -> dict[str, str | None]:
    """A folder `scans` with documents, pictures and what is broken; what each is answered, by key."""
    Path("scans").mkdir()
    document = pdf(*[Page(size=(100 + n, 100)) for n in range(NUM_PAGES)])
    Path("scans/a.pdf").write_bytes(document)
    Path("scans/b.pdf").write_bytes(document[:99])
    Path("scans/c.png").write_bytes(b"broken")
    no_unicode = os.fsdecode(b"scans/d\xff.pdf")
    Path(no_unicode).write_bytes(pdf(Page()))
    texts: dict[str, str | None] = {
        f"scans/a.pdf#{page + 1}": text_of(extract_page(document, page), 1) for page in range(NUM_PAGES)
    }
    texts |= {"scans/b.pdf#1": None, "scans/c.png": None}
    texts[f"{no_unicode}#1"] = text_of(extract_page(Path(no_unicode).read_bytes(), 0), 1)
    for seed in range(20):
        path = Path(f"scans/{seed:02}.png")
        path.write_bytes(encoded(reference_picture(40, 30, seed)))
        texts[str(path)] = text_of(path.read_bytes())
    return texts


def program(output: str, urls: Sequence[str], *arguments: str) -> list[str]:
    servers = [part for url in urls for part in ("--base-url", url)]
    return [sys.executable, "-m", "phi_vision", "batch", "--output", output, *servers, *arguments]


def batch(
    output: str, servers: Sequence[AnsweringServer], *arguments: str
) -> tuple[int, dict[str, Any], str]:
    """Exit code, the line on stdout, and stderr."""
    command = program(output, [server.base_url for server in servers], *arguments)
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def _take_signals() -> None:
    """In the command: a shell's background job hands on that SIGINT is ignored, which stays so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(servers: Sequence[AnsweringServer], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = program("out", [server.base_url for server in servers], *arguments)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_take_signals
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def while_it_runs(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait for a state of a run that cannot end before."""

    def is_there() -> bool:
        assert process.poll() is None, process.communicate()
        return condition()

    eventually(is_there)


def results() -> dict[str, str | None]:
    """The texts in `results.jsonl`, by key; none is there twice."""
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row["text"] for row in rows}


def asked(*servers: AnsweringServer) -> Counter[str]:
    return sum((Counter(server.asks) for server in servers), Counter())


def test_it_is_the_run_that_it_is_without_a_cluster(
    cluster: str, answering: AnsweringServer, another: AnsweringServer, texts: dict[str, str | None]
) -> None:
    both = (answering, another)
    before = asked(*both)
    arguments = ("scans", "--format", ",".join(FORMATS))
    code, summary, err = batch("out", both, *arguments, "--ray", cluster)
    assert (code, err) == (1, "")  # not a word of Ray's
    assert results() == dict(sorted(texts.items(), key=lambda each: order(each[0])))
    assert asked(*both) - before == Counter(text for text in texts.values() if text)
    assert min(len(server.asks) for server in both) > 0

    plain_code, plain, _ = batch("plain", both, *arguments)
    for name in FORMATS:
        assert Path(f"out/results.{name}").read_bytes() == Path(f"plain/results.{name}").read_bytes()
    changing = ("seconds", "pages_per_s", "files")
    assert code == plain_code and summary.keys() == plain.keys()
    assert {k: summary[k] for k in plain if k not in changing} == {
        k: plain[k] for k in plain if k not in changing
    }
    assert Path("out/report.html").exists()

    # It goes on without the cluster as with it.
    Path("scans/c.png").write_bytes(encoded(reference_picture(40, 30, 99)))
    before = asked(*both)
    code, summary, err = batch("out", both, "scans", "--retry-failed")
    assert (code, summary["done"], summary["failed"]) == (1, len(texts) - 1, 1), err
    assert asked(*both) - before == Counter([text_of(Path("scans/c.png").read_bytes())])


def order(key: str) -> tuple[str, int]:
    name, _, page = key.partition("#")
    return name, int(page or 0)


def test_a_server_is_killed(
    cluster: str,
    answering: AnsweringServer,
    texts: dict[str, str | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with AnsweringServer(tmp_path_factory.mktemp("killed")) as killed:
        killed.wait_until_ready()
        killed.fail("hang", count=None)  # what it is asked it will not answer
        with started((answering, killed), "scans", "--ray", cluster) as process:
            while_it_runs(process, lambda: killed.state["in_flight"] > 0)
            killed.process.kill()
            out, err = process.communicate()
    assert process.returncode == 1 and json.loads(out)["done"] == len(texts) - 2, err
    assert results() == texts


def test_a_process_that_asks_is_killed(
    cluster: str, answering: AnsweringServer, texts: dict[str, str | None]
) -> None:
    before = asked(answering)
    answering.fail("hang", count=None)
    with started((answering,), "scans", "--ray", cluster, "--concurrency", "4") as process:
        while_it_runs(process, lambda: answering.state["in_flight"] == 4)
        [asking] = connected_processes(answering.port)
        asking.kill()
        asking.wait()
        answering.mend()
        out, err = process.communicate()
    assert process.returncode == 1 and json.loads(out)["done"] == len(texts) - 2, err
    assert results() == texts
    again = asked(answering) - before - Counter(text for text in texts.values() if text)
    assert sum(again.values()) == 4  # those that it had asked


class Host:
    """Serves the picture `HELD`, and keeps those who want it waiting until it is let go."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.letting_go = threading.Event()
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.num_asked += 1
                host.letting_go.wait()
                with contextlib.suppress(OSError):  # who asked may be gone
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(HELD)

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/held.png"


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    threading.Thread(target=host.server.serve_forever, args=(0.01,), daemon=True).start()
    yield host
    host.letting_go.set()
    host.server.shutdown()
    host.server.server_close()


def test_a_process_that_reads_is_killed(
    cluster: str, answering: AnsweringServer, texts: dict[str, str | None], host: Host
) -> None:
    with started((answering,), "scans", host.url, "--ray", cluster) as process:
        while_it_runs(process, lambda: host.num_asked > 0)
        [reading] = connected_processes(host.server.server_port)
        reading.kill()
        while_it_runs(process, lambda: host.num_asked > 1)  # another reads it
        host.letting_go.set()
        out, err = process.communicate()
    assert process.returncode == 1 and json.loads(out)["done"] == len(texts) - 1, err
    assert results() == texts | {host.url: text_of(HELD)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_it_goes_on(
    cluster: str,
    answering: AnsweringServer,
    texts: dict[str, str | None],
    host: Host,
    number: signal.Signals,
) -> None:
    with started((answering,), "scans", host.url, "--ray", cluster) as process:
        while_it_runs(process, lambda: host.num_asked > 0)
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert "run the same command again to go on" in err and "Traceback" not in err
    summary = json.loads(out)
    assert summary["waiting"] > 0 and summary["items"] == len(texts) + 1
    so_far = results()
    assert so_far.items() <= texts.items()
    host.letting_go.set()
    code, summary, err = batch("out", (answering,), "--ray", cluster)
    assert (code, summary["waiting"], err) == (1, 0, "")
    assert len(results()) == len(texts) + 1


def test_errors_end_it_early(cluster: str, answering: AnsweringServer, texts: dict[str, str | None]) -> None:
    answering.fail("400", count=None)
    code, summary, err = batch("out", (answering,), "scans", "--ray", cluster, "--max-errors", "2")
    assert (code, err) == (1, "")
    assert summary["failed"] >= 2 and summary["waiting"] > 0


def test_servers_that_are_not_there_are_one_line(cluster: str, texts: dict[str, str | None]) -> None:
    done = subprocess.run(
        program("out", ["http://127.0.0.1:1/v1"], "scans", "--ray", cluster), capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "127.0.0.1:1" in done.stderr
    done = subprocess.run(program("out", [], "scans", "--ray", cluster), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "phi-vision batch: the cluster has no GPU: name servers with --base-url, or add --ray-servers N\n",
    )


def own_servers() -> list[psutil.Process]:
    """Those that processes of the cluster have started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if "serve" in process.cmdline() and parent is not None and parent.name().startswith("ray::"):
                found.append(process)
    return found


def num_done() -> int:
    """Of the run in `out`, as its queue has it."""
    try:
        with contextlib.closing(sqlite3.connect("file:out/run.sqlite?mode=ro", uri=True)) as database:
            count: int = database.execute("SELECT count(*) FROM items WHERE state = 'done'").fetchone()[0]
    except sqlite3.OperationalError:  # the file, or the table in it, is not there yet
        return 0
    return count


def test_a_server_of_its_own_and_the_process_of_another_are_killed(cluster: str, host: Host) -> None:
    Path("scans").mkdir()
    for number in range(48):  # more than a task has, so that not all wait for the host
        page = draw_text(Random(f"on-ray-{number}"), em=PRINT_EM, lines=(1, 1), max_chars=8)
        Path(f"scans/{number:02}.png").write_bytes(encoded(page.image))
    flags = ("--ray", cluster, "--ray-servers", "2", "--device", "cpu", "--task", "ocr")
    with started((), "scans", host.url, *flags) as process:
        while_it_runs(process, lambda: num_done() > 0 and len(own_servers()) == 2)
        killed, other = own_servers()
        killed.kill()
        while_it_runs(process, lambda: killed not in (there := own_servers()) and len(there) == 2)
        asking = other.parent()
        assert asking is not None
        asking.kill()  # its server ends with it
        while_it_runs(process, lambda: other not in (there := own_servers()) and len(there) == 2)
        host.letting_go.set()
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == 49 and len(results()) == 49
    assert "starting 2 engine(s) on the cluster" in err and "answered by the DEMO model" in err
    eventually(lambda: own_servers() == [])
