"""`doctor` beside a server that runs: its port is no fault, and the server itself is asked."""

from __future__ import annotations

import pytest
from phi_vision.config import ServeConfig
from phi_vision.doctor import engine, server
from phi_vision.doctor.finding import Level
from phi_vision.doctor.setup import Setup

from tests.support.stub_engine import ScriptedAnswer
from tests.support.stub_server import StubServer


@pytest.mark.parametrize(("said", "level"), [("A red circle.", Level.OK), ("I do not know.", Level.FAIL)])
def test_a_running_server_is_asked_in_the_place_of_one_of_its_own(
    stub: StubServer, said: str, level: Level
) -> None:
    setup = Setup(ServeConfig(port=stub.port))
    port = server.port(setup)
    assert port.level == Level.WARN and "by a phi-vision server" in port.summary
    with stub.answers(ScriptedAnswer(said)):
        found = engine.generation(setup)
    assert found and found.level == level and repr(said) in found.summary


def test_one_that_asks_for_a_key_is_known_by_its_process(keyed: StubServer) -> None:
    setup = Setup(ServeConfig(port=keyed.port))
    assert server.port(setup).summary.startswith(f"127.0.0.1:{keyed.port} is taken by ")
