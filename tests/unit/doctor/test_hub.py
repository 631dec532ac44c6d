"""A hub that refuses, is slow, is gone, or lies behind a proxy; a local server plays it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from huggingface_hub import close_session, constants
from phi_vision.doctor import hub
from phi_vision.planning.hub import Listing

from tests.support.hub import Hub, running_hub
from tests.support.hub_cache import COMMIT, HUB_ID, SHARDED


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    close_session()  # a client keeps the proxies that it was made with
    with running_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running
    close_session()


def fault(hub_id: str = HUB_ID, limit_s: float = 600) -> hub.HubFault:
    found = hub.ask(hub_id, limit_s)
    assert isinstance(found, hub.HubFault)
    return found


def test_a_hub_that_has_it(fake: Hub) -> None:
    found = hub.ask(HUB_ID)
    assert isinstance(found, Listing) and found.commit == COMMIT and found.files.keys() == SHARDED.keys()
    assert hub.address() == fake.url


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(401, "GatedRepo", "gated"), (404, "RepoNotFound", "no such model"), (403, "", "does not let you")],
)
def test_a_hub_that_refuses_says_what_to_do(fake: Hub, status: int, code: str, said: str) -> None:
    fake.listing_error = status, code
    assert said in fault().summary and fault().remedy is None


def test_a_hub_that_fails(fake: Hub) -> None:
    fake.listing_error = 500, ""
    assert "500" in fault().summary and "--model" in str(fault().remedy)


def test_a_hub_that_is_slow(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(hub, "list_files", lambda _: ended.wait())
    assert fault(limit_s=0.1).summary == f"no answer of {fake.url} within 0.1 s"
    ended.set()


def test_a_hub_that_is_not_there(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert "ConnectError" in fault().summary and "HF_ENDPOINT" in str(fault().remedy)


def test_a_hub_that_nobody_asks(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "list_files", lambda _: pytest.fail("it was asked"))
    assert fault().summary.startswith("not asked")


def test_a_name_that_is_none(fake: Hub) -> None:
    assert "neither a folder nor a name" in fault("a/b/c").summary


def test_a_proxy_that_refuses(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example.org")
    monkeypatch.setenv("https_proxy", fake.url)  # it knows no CONNECT
    assert "ProxyError" in fault().summary and f"through the proxy {fake.url}" in str(fault().remedy)


def test_the_proxy_is_named_without_its_password(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example.org:3128")
    assert hub.address() == f"{fake.url} through the proxy proxy.example.org:3128"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert hub.address() == fake.url
