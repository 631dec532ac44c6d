"""Two servers behind one address while pictures with known answers are asked, and one server goes.

Once with small servers, which start at once; in `make test-all` also with the demo in real ones.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
import pytest
from demo_training.pictures import HELD_OUT_WORDS, PRINT_EM, Drawing, draw_text
from phi_vision.client.process import ServerProcess

from tests.support import small_fleet
from tests.support.pictures import encoded, image_part, user
from tests.support.programs import program as installed
from tests.support.serving import PATIENCE_S, PATIENT_ENV, PATIENT_FLAGS, eventually

CHAT = "/v1/chat/completions"
CLIENTS = 4
SOME = 8  # answers, so that both servers have work


class Fleet(ServerProcess):
    """`phi-vision replicas` with two servers; a picture gets the same answer from each."""

    def __init__(self, folder: Path, program: Sequence[str], *flags: str) -> None:
        own = ["--replicas", "2", "--model", "demo", "--port", "0"]
        command = [sys.executable, *program, *own, "--files-folder", str(folder / "files"), *flags]
        super().__init__(command, folder / "log.txt", env={**PATIENT_ENV, "TMPDIR": str(folder)})
        self.folder = folder
        self.has_engines = "-m" in program

    @cached_property
    def addresses(self) -> list[str]:
        """Of each server."""
        (row,) = re.findall(r"^  metrics +(.*)$", self.log, re.MULTILINE)
        return [url.removesuffix("/metrics") for url in row.split(", ")]

    def is_ready(self, address: str) -> bool:
        self.check_running()
        try:
            return httpx.get(f"{address}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def servers(self) -> list[psutil.Process]:
        """Their processes, without one that is being started again."""
        family = psutil.Process(self.process.pid).children()
        return [each for each in family if is_running(each) and each.name() != "haproxy"]

    def wait_for_both(self) -> None:
        eventually(lambda: all(map(self.is_ready, self.addresses)))

    def answered(self) -> list[float]:
        """Requests that each server has answered since it started."""
        return [
            sum(
                float(line.split()[-1])
                for line in httpx.get(f"{address}/metrics").text.splitlines()
                if line.startswith("phi_vision_requests_total{") and CHAT in line and 'status="2xx"' in line
            )
            for address in self.addresses
        ]


@dataclass
class Load:
    """Clients that ask without a pause, and what came of it."""

    fleet: Fleet
    questions: list[dict[str, Any]]
    right: list[str]
    answers: int = 0
    lost: list[int] = field(default_factory=list)  # what came instead of an answer
    faults: list[str] = field(default_factory=list)

    def some_more(self) -> None:
        """Wait for answers."""
        enough = self.answers + SOME
        eventually(lambda: self.answers >= enough or bool(self.faults))

    @contextmanager
    def running(self, may_fail: int = 0) -> Iterator[Load]:
        """Every answer must be right, and every request be answered, but for so many."""
        self.faults.clear()
        self.lost.clear()
        over = threading.Event()
        clients = [threading.Thread(target=self._ask, args=(i, over)) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            yield self
        finally:
            over.set()
            for client in clients:
                client.join()
        assert self.faults == [] and len(self.lost) <= may_fail, (self.lost, self.fleet.log[-4000:])

    def _ask(self, client: int, over: threading.Event) -> None:
        number = client
        while not over.is_set():
            number = (number + 1) % len(self.questions)
            try:
                answer = ask(self.fleet, self.questions[number])
            except httpx.HTTPError as error:
                self.faults.append(repr(error))
                continue
            if answer.status_code == 503 and self.fleet.has_engines:
                # One is down, and a busy machine keeps the other for a moment: clients ask again.
                time.sleep(float(answer.headers["retry-after"]))
                continue
            if answer.status_code != 200:
                self.lost.append(answer.status_code)
            elif (said := text(answer)) != self.right[number]:
                self.faults.append(f"{said!r} instead of {self.right[number]!r}")
            self.answers += 1


def ask(fleet: Fleet, question: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{fleet.url}{CHAT}", json=question)


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def is_running(server: psutil.Process) -> bool:
    try:
        return bool(server.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


REAL = [pytest.mark.slow, pytest.mark.full]


@pytest.fixture(scope="module", params=["small", pytest.param("real", marks=REAL)])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    installed("haproxy", "haproxy")
    program: Sequence[str] = (small_fleet.__file__,)
    flags: Sequence[str] = ("--hang-timeout-s", "5")
    if request.param == "real":
        # On a busy machine whose system has dropped pages of code from memory, a server was silent for 50 s.
        program = ("-m", "phi_vision", "replicas")
        flags = ("--max-model-len", "4096", "--dtype", "float32", "--hang-timeout-s", "90", *PATIENT_FLAGS)
    with Fleet(tmp_path_factory.mktemp("fleet"), program, *flags) as running:
        running.wait_until_ready(PATIENCE_S)
        running.wait_for_both()
        yield running


def page(seed: int) -> Drawing:
    return draw_text(
        Random(f"replicas-{seed}"), em=PRINT_EM, lines=(1, 1), max_chars=10, words=HELD_OUT_WORDS
    )


def question(picture: dict[str, Any]) -> dict[str, Any]:
    return {"model": "phi-3.5-vision:ocr", "messages": [user(picture)], "max_tokens": 24}


@pytest.fixture(scope="module")
def load(fleet: Fleet) -> Load:
    pages = [page(seed) for seed in range(12)]
    questions = [question(image_part(each.image, "low")) for each in pages]
    right = [text(ask(fleet, each)) for each in questions]
    assert len(set(right)) == len(right)
    return Load(fleet, questions, right)


def test_both_servers_answer(fleet: Fleet, load: Load) -> None:
    before = fleet.answered()
    with load.running():
        load.some_more()
    assert all(after > first for after, first in zip(fleet.answered(), before, strict=True))


def test_what_one_server_alone_would_answer_is_refused(fleet: Fleet) -> None:
    for path in ("/metrics", "/metrics/", "/load", "/v1/queue", "/v1/%71ueue"):
        answer = httpx.get(f"{fleet.url}{path}")
        assert answer.status_code == 404 and "several servers" in answer.json()["error"]["message"]


@pytest.mark.parametrize("fleet", [pytest.param("real", marks=REAL)], indirect=True)
def test_real_servers_read_the_same_and_have_the_same_files(fleet: Fleet, load: Load) -> None:
    # The demo reads well, not faultlessly.
    true = [page(seed).lines[0] for seed in range(len(load.right))]
    assert sum(said == line for said, line in zip(load.right, true, strict=True)) > len(true) / 2
    upload = {"file": ("a.png", encoded(page(0).image))}
    sent = httpx.post(f"{fleet.url}/v1/files", files=upload, data={"purpose": "ocr"})
    part = {"type": "file", "file": {"file_id": sent.json()["id"]}}
    assert len({text(ask(fleet, question(part))) for _ in range(4)}) == 1  # each server has answered


def test_a_server_told_to_stop_loses_no_request(fleet: Fleet, load: Load) -> None:
    with load.running():
        load.some_more()
        server = fleet.servers[0]
        server.terminate()
        eventually(lambda: not is_running(server))
        load.some_more()
        fleet.wait_for_both()
        eventually(lambda: min(fleet.answered()) > 0)
    assert "ended with exit code 0; it is started again" in fleet.log
    with load.running():
        load.some_more()
        load.some_more()


@pytest.mark.full
def test_a_killed_server_costs_what_it_had(fleet: Fleet, load: Load) -> None:
    """Its requests end at once with an error, and no other does."""
    with load.running(may_fail=CLIENTS):
        load.some_more()
        fleet.servers[0].kill()
        load.some_more()
        fleet.wait_for_both()
        load.some_more()
    assert set(load.lost) <= {502}
    assert "ended by SIGKILL; it is started again" in fleet.log
    with load.running():
        load.some_more()


@pytest.mark.full
def test_a_hanging_server_costs_what_it_had(fleet: Fleet, load: Load) -> None:
    """Until it is found out; then it is killed, and what waited there ends."""
    with load.running(may_fail=CLIENTS):
        load.some_more()
        server = fleet.servers[0]
        os.killpg(server.pid, signal.SIGSTOP)
        eventually(lambda: not is_running(server))
        load.some_more()
    assert set(load.lost) <= {502}
    assert "hangs; it is killed" in fleet.log


def test_the_end(fleet: Fleet) -> None:
    """While one is being started again: no process and no file is left."""
    family = psutil.Process(fleet.process.pid).children(recursive=True)
    assert fleet.stop(PATIENCE_S) == 0, fleet.log[-4000:]
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []
    assert [path.name for path in fleet.folder.glob("phi-vis-*")] == []
