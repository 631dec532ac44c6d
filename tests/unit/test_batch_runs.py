"""Batches from their input file to their output files; the application that answers is a stub."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from phi_vision.batch.queue import Queue
from phi_vision.limits import Limits
from phi_vision.serving.batch_places import BatchPlaces
from phi_vision.serving.batches import in_process_ask, runs
from phi_vision.serving.batches.runs import BatchRuns
from phi_vision.serving.batches.store import ENDED, Batch, BatchStore
from phi_vision.serving.files import FileStore
from phi_vision.serving.lifecycle import Lifecycle
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

CHAT = "/v1/chat/completions"
DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_POLL_S", "_TAKE_UP_INTERVAL_S", "_SWEEP_INTERVAL_S", "_FAULT_WAIT_S", "_RETRY_S"):
        monkeypatch.setattr(runs, name, 0.01)
    monkeypatch.setattr(in_process_ask, "_RETRY_S", 0.01)
    monkeypatch.setattr(in_process_ask, "_NO_ROOM_WAIT_S", 0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))  # a state that never comes


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


class App:
    """Answers a body with itself, or as `answers` says for its `n`; nothing while `held` holds it."""

    def __init__(self) -> None:
        self.answers: dict[int, list[tuple[int, dict[str, str]]]] = {}  # statuses and headers, in order
        self.held: set[int] = set()
        self.asked: list[int] = []
        self.ended: list[int] = []
        self.keys: set[str | None] = set()
        self.most_at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.json()
        number = body["n"]
        self.asked.append(number)
        self.keys.add(request.headers.get("authorization"))
        self.most_at_work = max(self.most_at_work, len(self.asked) - len(self.ended))
        gone = asyncio.ensure_future(receive())
        while number in self.held and not gone.done():
            await asyncio.sleep(0.005)
        gone.cancel()
        self.ended.append(number)
        status, headers = self.answers[number].pop(0) if self.answers.get(number) else (200, {})
        answer = {"n": number} if status == 200 else {"error": {"message": f"status {status}"}}
        await JSONResponse(answer, status, headers)(scope, receive, send)


class Server:
    """What a start of the server has of batches. A second one in the same folder is a restart."""

    def __init__(self, folder: Path, app: App, places: int = 4, keys: tuple[str, ...] = ("mine",)) -> None:
        self.now = 1e9
        self.clients = 0
        self.limits = Limits(files_folder=str(folder), max_files_mb=1, max_batch_lines=50)
        self.files = FileStore(self.limits)
        self.owner = self.files.owner(keys[0] if keys else "")
        self.batches = BatchStore(self.files, self.limits, lambda: self.now)
        self.places = BatchPlaces(places, lambda: self.clients)
        self.stub = SimpleNamespace(batch_places=self.places, alive=True, serving=self._serving)
        self.lifecycle = cast(Lifecycle, self.stub)
        self.runs = BatchRuns(
            app, self.batches, self.files, self.lifecycle, self.limits, keys=keys, clock=lambda: self.now
        )

    async def _serving(self) -> None:
        return None

    def upload(self, numbers: range | list[int], data: bytes = b"") -> str:
        requests = [
            {"custom_id": f"line {n}", "method": "POST", "url": CHAT, "body": {"n": n}} for n in numbers
        ]
        data = data or "\n".join(map(json.dumps, requests)).encode()
        draft = self.files.reserve(self.owner, len(data) + 1000)
        return self.files.keep(draft, io.BytesIO(data), filename="in", purpose="batch", age_s=DAY_S).id

    def add(self, numbers: range | list[int], data: bytes = b"") -> Batch:
        file_id = self.upload(numbers, data)
        return self.batches.add(self.owner, endpoint=CHAT, input_file_id=file_id, output_age_s=DAY_S)

    def start(self, numbers: range | list[int], data: bytes = b"") -> Batch:
        batch = self.add(numbers, data)
        self.runs.start(batch)
        return batch

    def get(self, batch: Batch) -> Batch:
        return self.batches.get(batch.id, batch.owner)

    async def reaches(self, batch: Batch, status: str) -> Batch:
        await eventually(lambda: self.get(batch).status == status)
        await eventually(lambda: status not in ENDED or batch.id not in self.runs._running)
        return self.get(batch)

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        assert self.files.get(file_id, self.owner).purpose == "batch_output"
        return [json.loads(line) for line in self.files.read(file_id, self.owner).splitlines()]


@asynccontextmanager
async def going(server: Server) -> AsyncIterator[Server]:
    keeping = asyncio.create_task(server.runs.keep_going())
    try:
        yield server
    finally:
        await server.runs.stop()
        await keeping


def counts(batch: Batch) -> tuple[int, int, int]:
    return batch.total, batch.completed, batch.failed


def test_a_batch_from_its_file_to_its_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        async with going(Server(tmp_path, app, places=3)) as server:
            batch = await server.reaches(server.start(range(20)), "completed")
            assert counts(batch) == (20, 20, 0) and batch.error_file_id is None
            assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
            lines = server.lines(batch.output_file_id)
            assert [line["custom_id"] for line in lines] == [f"line {n}" for n in range(20)]
            assert [line["response"]["body"]["n"] for line in lines] == list(range(20))
            assert {line["response"]["status_code"] for line in lines} == {200}
            assert (
                len({line["response"]["request_id"] for line in lines}) == len({x["id"] for x in lines}) == 20
            )
            assert app.keys == {"Bearer mine"} and app.most_at_work <= 3
            assert [path.name for path in server.batches.folder(batch).iterdir()] == ["batch.json"]

    run(scenario())


def test_without_keys_none_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        async with going(Server(tmp_path, app, keys=())) as server:
            await server.reaches(server.start(range(2)), "completed")
            assert app.keys == {None}

    run(scenario())


def test_lines_that_are_refused_or_fail_are_in_the_file_of_errors(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.answers = {1: [(400, {})], 2: [(500, {})] * 9, 3: [(500, {})]}
        async with going(Server(tmp_path, app)) as server:
            batch = await server.reaches(server.start(range(5)), "completed")
            assert counts(batch) == (5, 3, 2)
            refused, failed = server.lines(batch.error_file_id)
            assert (refused["custom_id"], refused["response"]["status_code"]) == ("line 1", 400)
            assert (
                refused["response"]["body"]["error"]["message"] == "status 400" and refused["error"] is None
            )
            assert (failed["custom_id"], failed["response"]["status_code"]) == ("line 2", 500)
            assert app.asked.count(1) == 1 and app.asked.count(2) == 3 and app.asked.count(3) == 2

    run(scenario())


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_cannot_now_is_asked_again_for_as_long_as_it_takes(tmp_path: Path, status: int) -> None:
    async def scenario() -> None:
        app = App()
        app.answers = {0: [(status, {"retry-after": "0"})] * 2}
        async with going(Server(tmp_path, app)) as server:
            batch = await server.reaches(server.start(range(2)), "completed")
            assert counts(batch) == (2, 2, 0) and app.asked.count(0) == 3

    run(scenario())


def test_a_dead_engine_fails_no_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.answers = {0: [(500, {})] * 9}
        async with going(Server(tmp_path, app)) as server:
            server.stub.alive = False
            batch = server.start([0])
            await eventually(lambda: app.asked.count(0) == 9)
            server.stub.alive = True
            assert counts(await server.reaches(batch, "completed")) == (1, 1, 0)

    run(scenario())


def test_a_file_with_a_bad_line_fails_before_any_is_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        async with going(Server(tmp_path, app)) as server:
            batch = await server.reaches(server.start([], b'{"custom_id": "a"}\nno JSON\n'), "failed")
            assert batch.errors is not None and [error["line"] for error in batch.errors] == [1, 2]
            assert batch.failed_at and batch.output_file_id is None and app.asked == []

    run(scenario())


def test_lines_wait_while_clients_ask(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        async with going(Server(tmp_path, app, places=2)) as server:
            server.clients = 2
            batch = await server.reaches(server.start(range(3)), "in_progress")
            await eventually(lambda: len(server.places._waiting) == 3)
            assert app.asked == []
            server.clients = 1
            server.places.hand_out()
            await server.reaches(batch, "completed")
            assert app.most_at_work == 1

    run(scenario())


def test_a_cancelled_batch_keeps_what_it_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.held = {1, 2}
        async with going(Server(tmp_path, app, places=2)) as server:
            batch = server.start(range(4))
            await eventually(lambda: server.get(batch).completed == 1 and {1, 2} <= set(app.asked))
            assert server.batches.cancel(batch.id, server.owner).status == "cancelling"
            ended = await server.reaches(batch, "cancelled")
            assert ended.cancelling_at and ended.cancelled_at and app.ended.count(1) == 1
            assert [line["custom_id"] for line in server.lines(ended.output_file_id)] == ["line 0"]
            errors = server.lines(ended.error_file_id)
            assert {line["error"]["code"] for line in errors} == {"batch_cancelled"} and len(errors) == 3
            assert 3 not in app.asked

    run(scenario())


def test_an_expired_batch_keeps_what_it_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.held = {1}
        async with going(Server(tmp_path, app)) as server:
            batch = server.start(range(2))
            await eventually(lambda: server.get(batch).completed == 1 and 1 in app.asked)
            server.now += DAY_S
            ended = await server.reaches(batch, "expired")
            assert ended.expired_at and len(server.lines(ended.output_file_id)) == 1
            assert [line["error"]["code"] for line in server.lines(ended.error_file_id)] == ["batch_expired"]

    run(scenario())


def test_a_restart_goes_on_where_the_server_was_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.held = {2}
        async with going(Server(tmp_path, app, places=1)) as server:
            batch = server.start(range(4))
            await eventually(lambda: 2 in app.asked)
        assert server.get(batch).status == "in_progress" and app.ended == [0, 1, 2]  # told to end
        app.held = set()
        async with going(Server(tmp_path, app)) as server:
            ended = await server.reaches(batch, "completed")
            assert [line["response"]["body"]["n"] for line in server.lines(ended.output_file_id)] == [
                0,
                1,
                2,
                3,
            ]
        assert sorted(app.asked) == [0, 1, 2, 2, 3]  # only what was in flight was asked twice

    run(scenario())


def test_one_of_several_processes_runs_a_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.held = {0}
        async with going(Server(tmp_path, app)) as first, going(Server(tmp_path, app)) as second:
            batch = first.start(range(3))
            await eventually(lambda: 0 in app.asked)
            second.runs.start(batch)
            await eventually(lambda: batch.id not in second.runs._running)  # it has found it locked
            assert second.batches.cancel(batch.id, second.owner).status == "cancelling"
            ended = await first.reaches(batch, "cancelled")
            assert second.get(batch) == ended and app.asked.count(0) == 1

    run(scenario())


def test_another_process_goes_on_where_one_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        app.held = {1}
        async with going(Server(tmp_path, app)) as second:
            async with going(Server(tmp_path, app)) as first:
                batch = first.start(range(3))
                await eventually(lambda: 1 in app.asked)
            app.held = set()
            ended = await second.reaches(batch, "completed")
            assert len(second.lines(ended.output_file_id)) == 3

    run(scenario())


def test_a_batch_that_has_ended_elsewhere_stays_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        async with going(Server(tmp_path, app)) as server:
            batch = server.start(range(2))
            ended = await server.reaches(batch, "completed")
            server.runs.start(batch)  # as it was read before it ended
            await eventually(lambda: batch.id not in server.runs._running)
            assert server.get(batch) == ended and sorted(app.asked) == [0, 1]
            assert [path.name for path in server.batches.folder(batch).iterdir()] == ["batch.json"]

    run(scenario())


def test_a_batch_whose_key_is_gone_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App()
        batch = Server(tmp_path, app, keys=("gone",)).add(range(2))
        async with going(Server(tmp_path, app, keys=("mine",))) as server:
            await server.reaches(server.start([5]), "completed")
            assert server.get(batch).status == "validating" and app.asked == [5]

    run(scenario())


def test_a_full_folder_delays_answers_and_files_but_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        app = App()
        async with going(Server(tmp_path, app)) as server:
            batch = server.add(range(2))
            filler = tmp_path / server.owner / "draft-filler"
            filler.write_bytes(bytes(1_000_000))
            looked = []
            has_room = server.files.has_room

            def look() -> bool:
                looked.append(has_room())
                return looked[-1]

            monkeypatch.setattr(server.files, "has_room", look)
            server.runs.start(batch)
            await eventually(lambda: len(looked) > 3)
            assert app.asked == [] and not any(looked)
            app.held = {1}
            filler.unlink()
            await eventually(lambda: 1 in app.asked)
            filler.write_bytes(bytes(1_000_000))
            app.held = set()
            await server.reaches(batch, "finalizing")
            filler.unlink()
            ended = await server.reaches(batch, "completed")
            assert len(server.lines(ended.output_file_id)) == 2

    run(scenario())


def test_a_fault_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        app = App()
        faults = [OSError(28, "No space left on device")] * 2
        add = Queue.add

        def full(queue: Queue, items: Any) -> int:
            if faults:
                raise faults.pop()
            return add(queue, items)

        monkeypatch.setattr(Queue, "add", full)
        async with going(Server(tmp_path, app)) as server:
            await server.reaches(server.start(range(2)), "completed")
            assert not faults

    run(scenario())
