"""What tests of batch share: servers whose answers are known, and pictures to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering_server import AnsweringServer
from tests.support.asking import Folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("answering")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("second"), "--no-ocr") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(autouse=True)
def _mended(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"answering", "second"} & set(request.fixturenames):
        request.getfixturevalue(name).mend()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
