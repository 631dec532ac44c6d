"""One engine a session: starting one costs most of the suite's time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.browser import running_browser
from tests.support.other_settings import running_other, write_trap
from tests.support.serving import PATIENCE_S, Server, running_server
from tests.support.stub_server import MINE, QUEUE, YOURS, StubServer, running_stub

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# By default httpx gives up after five seconds, which any answer may take on a busy machine.
_patience = inspect.signature(httpx.get).parameters["timeout"].default
_patience.connect = _patience.read = _patience.write = _patience.pool = PATIENCE_S


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo model on the real engine, with a context small enough to overflow."""
    log_path = tmp_path_factory.mktemp("server") / "log.txt"
    flags = ["--model", "demo", "--max-model-len", "16384", "--max-images", "6"]
    flags += ["--dtype", "float32"]  # so that batches of different shapes give equal answers
    with running_server(log_path, *flags) as running:
        yield running


@pytest.fixture(scope="session")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with remote code that must not run."""
    return write_trap(tmp_path_factory.mktemp("trap") / "model")


@pytest.fixture(scope="session")
def other(trap: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second engine, with other settings. The last test of `test_faults` ends it."""
    with running_other(tmp_path_factory.mktemp("other"), trap) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> openai.OpenAI:
    """The official SDK, pointed at the server."""
    return server.client()


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    """The server without its engine, for what is decided before the engine is asked."""
    with running_stub(tmp_path_factory.mktemp("stub"), "--max-model-len", "16384") as running:
        yield running


@pytest.fixture(scope="session")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    """The same with adaptive crops, low limits, a store of responses, and a file where uploads should go."""
    folder = tmp_path_factory.mktemp("unusual")
    (folder / "taken").touch()
    flags = ["--crops", "adaptive", "--max-images", "2", "--max-pages", "3", "--max-model-len", "16384"]
    flags += ["--files-folder", str(folder / "taken")]
    with running_stub(folder, *flags, env={"VLLM_ENABLE_RESPONSES_API_STORE": "1"}) as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    """The same with two keys, a short queue, little room for files, and one line of a batch at a time."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys").write_text(f"{MINE}\n{YOURS}\n")
    flags = ["--api-key-file", str(folder / "keys"), "--max-num-queued-reqs", str(QUEUE)]
    flags += ["--max-file-mb", "0.5", "--max-files-mb", "2", "--max-batches", "2", "--batch-share", "0.01"]
    with running_stub(folder, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window. While it is there, no event loop can be run in the same thread."""
    with running_browser() as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs an engine, so that `make test-fast` can leave it out, and let it come first."""
    for item in items:
        if {"server", "client"} & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("slow"):
            item.add_marker("engine")
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)


# By the server's fixture: the files of the tests that share it.
SHARED = {
    "stub": r"/http/|/browser/test_page",
    "other": r"/engine/test_(custom_settings|faults)\b",
    "server": r"/engine/test_(?!rope|overload|embeddings)|/test_demo\b",
}


class SharedServers(LoadScopeScheduling):
    """Gives each process of pytest-xdist the tests that share a server, else those of a file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((server for server, files in SHARED.items() if re.search(files, file)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedServers:
    return SharedServers(config, log)
