"""A program that is kept running, and a server that is looked at."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.replicas import process, watch
from phi_vision.replicas.process import KeptProcess, Tell
from phi_vision.replicas.watch import READY, Agreement, Watch

from tests.support import small_fleet
from tests.support.programs import program
from tests.support.serving import eventually
from tests.support.upstream import Upstream, running

FOREVER = "import time\nwhile True: time.sleep(1)"


class Told:
    """What the user was told and shown."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[str] = []
        self.tell = Tell(self.said.append, self.shown.append)


def kept(told: Told, code: str, **more: Any) -> KeptProcess:
    """A Python program."""
    return KeptProcess("it", [sys.executable, "-u", "-c", code], told.tell, label="1", **more)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("code", "kind"), [(2, UsageError), (1, PhiVisionError), (0, PhiVisionError)])
def test_a_program_that_does_not_start_is_not_tried_again(code: int, kind: type[PhiVisionError]) -> None:
    told = Told()
    it = kept(told, f"print('a'); print('the last word'); raise SystemExit({code})")
    with pytest.raises(kind) as raised:
        asyncio.run(it.keep())
    assert type(raised.value) is kind
    assert (str(raised.value), it.life) == ("it did not start: the last word", 1)
    assert told.shown == ["[1] a", "[1] the last word"]


def test_a_program_that_has_worked_is_started_again_until_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_FIRST_PAUSE_S", 0.01)
    told = Told()
    it = kept(told, FOREVER)

    async def scenario() -> None:
        keeping = asyncio.create_task(it.keep())
        await until(lambda: it.life == 1 and it.running)
        it.has_worked = True
        it.kill()
        await until(lambda: it.life == 2 and it.running)
        it.kill()
        await until(lambda: it.life == 3 and it.running)
        it.stop(signal.SIGKILL)
        await keeping

    asyncio.run(scenario())
    assert it.life == 3
    assert [line.partition(";")[0] for line in told.said] == ["it ended by SIGKILL"] * 2


def test_it_reads_what_it_is_to_read() -> None:
    told = Told()
    it = kept(told, "import sys; print(sys.stdin.read()); raise SystemExit(2)", text="from stdin")
    with pytest.raises(UsageError, match="from stdin"):
        asyncio.run(it.keep())


def nature(**actual: Any) -> Upstream:
    """A server that is ready, with this plan."""
    told = {
        "/readyz": {},
        "/v1/models": {"data": [{"id": "phi", "root": "demo"}]},
        "/v1/plan": {"plan": None, "actual": {"kv_dtype": "auto", "max_model_len": 4096, **actual}},
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(told[request.path])

    return Upstream(handler)


def test_a_server_that_would_answer_differently_is_stopped() -> None:
    told, agreement = Told(), Agreement()
    one, other = kept(told, FOREVER), kept(told, FOREVER)

    async def scenario() -> None:
        async with running(nature()) as url, running(nature(max_model_len=8192)) as another_url:
            keeping = [asyncio.create_task(it.keep()) for it in (one, other)]
            await until(lambda: one.running and other.running)
            looking = asyncio.create_task(Watch(url, one, agreement, told.tell, hang_timeout_s=100).keep())
            await until(lambda: one.has_worked)
            also = asyncio.create_task(
                Watch(another_url, other, agreement, told.tell, hang_timeout_s=100).keep()
            )
            with pytest.raises(UsageError, match="context 8192, not 4096"):
                await keeping[1]
            for task in (looking, also):
                task.cancel()
            one.stop(signal.SIGKILL)
            await keeping[0]

    asyncio.run(scenario())
    assert one.fault is None and not other.has_worked


def test_a_server_that_says_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PATIENCE_S", 0.2)
    told, silent, good = Told(), asyncio.Event(), nature()

    async def scenario() -> None:
        it = kept(told, FOREVER)

        async def handler(request: web.Request) -> web.StreamResponse:
            if it.has_worked:
                await silent.wait()
            return await good.handler(request)

        async with running(Upstream(handler)) as url:
            keeping = asyncio.create_task(it.keep())
            look = Watch(url, it, Agreement(), told.tell, hang_timeout_s=0.5)
            looking = asyncio.create_task(look.keep())
            await until(lambda: it.life == 2)
            looking.cancel()
            it.stop(signal.SIGKILL)
            await keeping
        assert look.state == READY  # it has never said otherwise

    asyncio.run(scenario())
    assert "it hangs; it is killed" in told.said


@pytest.mark.full
def test_all_end_with_the_command(tmp_path: Path) -> None:
    program("haproxy", "haproxy")
    command = [sys.executable, small_fleet.__file__, "--replicas", "2", "--model", "demo", "--port", "0"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as fleet:
        eventually(lambda: (tmp_path / "log").read_text().count("is ready") == 2)
        family = psutil.Process(fleet.pid).children(recursive=True)
        assert len(family) == 3
        fleet.kill()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
