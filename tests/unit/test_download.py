"""A checkpoint from a hub that is slow, breaks off, fails or lies: it goes on, or ends in one clear line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from phi_vision.errors import UsageError
from phi_vision.planning import download
from phi_vision.planning.download import fetch
from phi_vision.planning.weights_cache import find_corrupt, inspect_cache, is_needed

from tests.support.hub import Fault, Hub, running_hub
from tests.support.hub_cache import COMMIT, FIRST, HUB_ID, SECOND, SHARDED
from tests.support.serving import eventually

NEEDED = {name: content for name, content in SHARDED.items() if is_needed(name)}
TOTAL = sum(map(len, NEEDED.values()))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running


@dataclass
class Fetched:
    progress: list[tuple[int, int]] = field(default_factory=list)
    slept_s: list[float] = field(default_factory=list)

    def __call__(self, revision: str | None = None) -> Path | None:
        return fetch(HUB_ID, revision, lambda *bytes_: self.progress.append(bytes_), self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@pytest.fixture
def fetched() -> Fetched:
    return Fetched()


def assert_whole() -> None:
    cached = inspect_cache(HUB_ID)
    assert cached.is_whole and not list(find_corrupt(cached))
    assert {file.name: file.path.read_bytes() for file in cached.files} == NEEDED


def partial_file(tmp_path: Path, digest: str) -> bytes | None:
    found = [file.read_bytes() for file in tmp_path.rglob(f"{digest}.incomplete")]
    return found[0] if found else None


def refused(fetched: Fetched, *said: str) -> None:
    with pytest.raises(UsageError) as raised:
        fetched()
    line = str(raised.value)
    assert "\n" not in line and HUB_ID in line and [text for text in said if text not in line] == [], line


def test_what_a_server_needs_comes_and_comes_once(hub: Hub, fetched: Fetched, tmp_path: Path) -> None:
    folder = fetched()
    assert folder is not None and {file.name for file in folder.iterdir()} == NEEDED.keys()
    assert_whole()
    assert sorted(name for name, _ in hub.asked) == sorted(NEEDED)
    assert fetched.progress[0] == (0, TOTAL) and fetched.progress[-1] == (TOTAL, TOTAL)
    assert not list(tmp_path.rglob("*.incomplete")) and not fetched.slept_s
    hub.asked.clear()
    assert fetched() == fetched(COMMIT) == folder and not hub.asked
    hub.listing_error = (503, "")
    assert fetched() == folder  # from the cache


@pytest.mark.parametrize("after", [0, 1, 400])
def test_a_download_that_breaks_off_goes_on_where_it_was(hub: Hub, fetched: Fetched, after: int) -> None:
    hub.faults[FIRST] = [Fault(break_after=after), Fault(break_after=after)]
    fetched()
    assert_whole()
    size = len(SHARDED[FIRST])
    ranges = [f"bytes={start}-" if start else None for start in (0, after, 2 * after) if start < size]
    assert [asked for name, asked in hub.asked if name == FIRST] == ranges
    assert fetched.slept_s == [1.0, 2.0 if after == 0 else 1.0]


def test_a_hub_that_gives_no_ranges_sends_all_again(hub: Hub, fetched: Fetched) -> None:
    hub.faults[FIRST] = [
        Fault(break_after=700),
        Fault(ignore_range=True, break_after=100),
        Fault(ignore_range=True),
    ]
    fetched()
    assert_whole()


@pytest.mark.parametrize("fault", [Fault(break_after=0), Fault(status=500), Fault(status=429)])
def test_a_hub_that_stays_away_is_one_line_and_what_came_is_kept(
    hub: Hub, fetched: Fetched, fault: Fault, tmp_path: Path
) -> None:
    hub.faults[FIRST], hub.stays = [Fault(break_after=700), fault], True
    refused(fetched, "broke off", "run the same command again to go on where it was")
    assert fetched.slept_s == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert partial_file(tmp_path, hub.digests[FIRST]) == SHARDED[FIRST][:700]
    hub.faults.clear()
    hub.asked.clear()
    fetched.progress.clear()
    fetched()
    assert_whole()
    assert (FIRST, "bytes=700-") in hub.asked
    assert fetched.progress[0][0] >= 700  # the percentage goes on too


def test_after_a_kill_the_next_start_goes_on(hub: Hub, fetched: Fetched, tmp_path: Path) -> None:
    hub.faults[FIRST] = [held := Fault(hold_after=700)]
    program = f"from phi_vision.planning.download import fetch; fetch({HUB_ID!r})"
    env = {**os.environ, **hub.environment, "HF_HUB_CACHE": str(tmp_path / "hub")}
    with subprocess.Popen([sys.executable, "-c", program], env=env) as first:
        held.reached.wait()
        eventually(lambda: partial_file(tmp_path, hub.digests[FIRST]) == SHARDED[FIRST][:700])
        first.send_signal(signal.SIGKILL)
    held.let_go.set()
    hub.asked.clear()
    fetched()
    assert_whole()
    assert (FIRST, "bytes=700-") in hub.asked


WRONG = SHARDED[FIRST][:-1] + b"!"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(content=WRONG),
        Fault(content=SHARDED[SECOND]),
        Fault(content=SHARDED[SECOND], size=0),
        Fault(content=SHARDED[FIRST] + b"!", size=0),
        Fault(size=len(SHARDED[FIRST]) + 1),
    ],
    ids=["digest", "short", "short and no size", "long and no size", "size"],
)
def test_a_wrong_file_is_fetched_once_more(hub: Hub, fetched: Fetched, fault: Fault, tmp_path: Path) -> None:
    hub.faults[FIRST] = [fault]
    fetched()
    assert_whole()
    hub.faults[FIRST], hub.stays = [fault], True
    for file in (tmp_path / "hub").rglob(hub.digests[FIRST]):
        file.unlink()
    if fault.content != SHARDED[SECOND] or fault.size is None:
        refused(fetched, FIRST, "is not the file that it lists", "twice")
        assert partial_file(tmp_path, hub.digests[FIRST]) is None and not inspect_cache(HUB_ID).is_whole


def test_a_partial_file_that_is_not_the_beginning_is_given_up(
    hub: Hub, fetched: Fetched, tmp_path: Path
) -> None:
    hub.faults[FIRST], hub.stays = [Fault(break_after=700), Fault(status=500)], True
    refused(fetched)
    (partial,) = tmp_path.rglob(f"{hub.digests[FIRST]}.incomplete")
    for content in (b"?" * 700, SHARDED[FIRST] + b"?", bytes(len(SHARDED[FIRST]))):
        partial.write_bytes(content)
        hub.faults.clear()
        fetched()
        assert_whole()
        for file in (tmp_path / "hub").rglob(hub.digests[FIRST]):
            file.unlink()


def test_a_cached_file_of_the_wrong_size_is_fetched_again(hub: Hub, fetched: Fetched) -> None:
    folder = fetched()
    assert folder is not None
    with (folder / FIRST).open("r+b") as opened:
        opened.truncate(10)
    hub.asked.clear()
    fetched()
    assert_whole()
    assert hub.asked == [(FIRST, None)]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "no such model"),
        (401, "RepoNotFound", "HF_TOKEN"),
        (403, "GatedRepo", "accept its terms at "),
        (404, "RevisionNotFound", "no revision"),
        (403, "", "HF_TOKEN"),
        (500, "", "an error (500)"),
    ],
)
def test_a_repository_that_is_not_to_be_had(
    hub: Hub, fetched: Fetched, status: int, code: str, said: str
) -> None:
    hub.listing_error = (status, code)
    refused(fetched, said)


@pytest.mark.parametrize(("status", "said"), [(404, "(404)"), (403, "HF_TOKEN"), (401, "HF_TOKEN")])
def test_a_file_that_is_not_to_be_had(hub: Hub, fetched: Fetched, status: int, said: str) -> None:
    hub.faults[SECOND], hub.stays = [Fault(status=status)], True
    refused(fetched, SECOND, said)
    assert not fetched.slept_s


def test_without_a_hub(hub: Hub, fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
        refused(fetched, "does not answer at http://127.0.0.1:1")
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        refused(fetched, "HF_HUB_OFFLINE is set")


def test_room_is_looked_for_before(hub: Hub, fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "free_bytes", lambda _: TOTAL - 1)
    hub.sizes[SECOND] = 3_000_000_000
    refused(fetched, "takes 3.00 GB at ", "0.00 GB are free", "HF_HOME")
    assert not hub.asked
    hub.sizes[SECOND] = len(SHARDED[SECOND])
    refused(fetched)
    hub.faults[FIRST], hub.stays = [Fault(break_after=700), Fault(status=500)], True
    monkeypatch.setattr(download, "free_bytes", lambda _: TOTAL)
    refused(fetched)
    monkeypatch.setattr(download, "free_bytes", lambda _: TOTAL - 700)  # what has come needs none
    hub.faults.clear()
    fetched()
    assert_whole()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot write to ")]
)
def test_a_disk_that_takes_no_more(
    hub: Hub, fetched: Fetched, number: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match=said):
        fetched()


def test_a_cache_that_is_no_folder(hub: Hub, fetched: Fetched, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write to .*HF_HOME"):
        fetched()


def test_of_two_starts_one_downloads(hub: Hub, fetched: Fetched) -> None:
    hub.faults[FIRST] = [held := Fault(hold_after=700)]
    other = Fetched()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(fetched)
        held.reached.wait()
        second = threads.submit(other)
        eventually(lambda: bool(other.slept_s))
        held.let_go.set()
        assert first.result() == second.result()
    assert_whole()
    assert [name for name, _ in hub.asked].count(FIRST) == 1
    assert other.progress[-1] == (TOTAL, TOTAL)


def test_the_token_goes_to_the_hub_alone(hub: Hub, fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.cdn = True
    fetched()
    assert_whole()
    by_host = {host.partition(":")[0]: said for host, said in hub.authorizations}
    assert by_host == {"127.0.0.1": "Bearer hf_secret", "localhost": None}


def change(hub: Hub, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(hub, name, value)


def test_what_cannot_be_checked_is_left_to_vllm(hub: Hub, fetched: Fetched, tmp_path: Path) -> None:
    for digest in ("../../../evil", "sha", ""):
        hub.digests[FIRST] = digest
        assert fetched() is None
    hub.files = hub.digests = {"config.json": hub.digests["config.json"]}  # type: ignore[assignment]
    assert fetched() is None
    assert not hub.asked and not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_listing_of_a_strange_commit_is_refused(hub: Hub, fetched: Fetched) -> None:
    hub.commit = "../../evil"
    refused(fetched, "makes no sense")
