"""Libraries that do not load, and a demo that does not start or answers wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from phi_vision.client.exchange import Endpoint
from phi_vision.client.process import OnWait, ServerStartError
from phi_vision.doctor import engine, programs
from phi_vision.doctor.finding import Finding, Level
from phi_vision.doctor.setup import Setup
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import Device

from tests.support.hostile_server import FakeServer, answer
from tests.support.setups import setup_with

CPU = Device("cpu", "x", 8 << 30)


def generation(start: Callable[..., Any], device: Device | str = CPU) -> Finding:
    found = engine.generation(setup_with(Setup(start=start), running=None, device=device))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("reply", "level"), [("A red circle.", Level.OK), ("!!!!!!", Level.FAIL), ("", Level.FAIL)]
)
def test_what_the_demo_says_counts(reply: str, level: Level) -> None:
    fake = FakeServer()
    fake.reply = answer(reply)
    flags: list[str] = []

    @contextmanager
    def start(*given: str, on_wait: OnWait, timeout_s: float) -> Iterator[Any]:
        flags.extend(given)
        on_wait(1.0, "loading")
        yield None, Endpoint(fake.base_url)

    try:
        found = generation(start)
    finally:
        fake.close()
    assert found.level == level and repr(reply) in found.summary
    assert (found.remedy is None) == (level == Level.OK)
    assert flags[:3] == ["auto", "--model", "demo"]


def test_a_demo_that_does_not_start_says_why() -> None:
    def start(*_: str, **__: Any) -> Any:
        raise ServerStartError("the server did not start: CUDA error: no kernel image")

    found = generation(start)
    assert found.level == Level.FAIL and found.summary.endswith("no kernel image") and found.remedy


def test_without_a_device_it_is_not_tried() -> None:
    assert generation(lambda: None, "no device: get one").level == Level.SKIPPED


def test_libraries_that_do_not_load(broken_module: Callable[[str, str], None]) -> None:
    broken_module("torch", "OSError('libcudart.so.13: cannot open shared object file')")
    found = engine.loads(setup_with(engine="cuda", device=named_gpu("a10")))
    assert found and found.level == Level.FAIL and found.remedy == "`make install ACCEL=cuda`"
    assert "OSError: libcudart.so.13: cannot open" in found.summary


def test_libraries_that_load(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def loads(code: str) -> None:
        asked.append(code)

    monkeypatch.setattr(programs, "error_of", loads)
    for device, said in ((CPU, "torch and vLLM load"), (named_gpu("a10"), "torch computes on the GPU")):
        found = engine.loads(setup_with(engine=device.kind, device=device))
        assert found and found.level == Level.OK and said in found.summary
    assert ["cuda" in code for code in asked] == [False, True]
    assert engine.loads(setup_with(engine=None)) is None


def test_a_program_that_fails_or_hangs() -> None:
    assert programs.error_of("import json") is None
    assert programs.error_of("raise SystemExit(4)") == "it ends with 4"
    assert programs.error_of("1 / 0") == "ZeroDivisionError: division by zero"
    assert programs.error_of("__import__('threading').Event().wait()", limit_s=0.1) == (
        "it is not done after 0 s"
    )
