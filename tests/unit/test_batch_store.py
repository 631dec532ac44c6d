"""The folder of batches."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving.batches import store as batch_store
from phi_vision.serving.batches.store import WINDOW_S, Batch, BatchStore
from phi_vision.serving.files import FileStore

CHAT = "/v1/chat/completions"
HOUR_S = 3600


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


class Stores:
    """Both stores, and a clock for that of batches."""

    def __init__(self, folder: Path, **limits: float) -> None:
        self.limits = Limits(files_folder=str(folder), **limits)  # type: ignore[arg-type]
        self.files = FileStore(self.limits)
        self.clock = Clock()
        self.batches = BatchStore(self.files, self.limits, self.clock)
        self.owner = self.files.owner("mine")

    def upload(self, data: bytes = b"{}\n", purpose: str = "batch", owner: str = "") -> str:
        draft = self.files.reserve(owner or self.owner, len(data) + 1000)
        return self.files.keep(draft, io.BytesIO(data), filename="in", purpose=purpose, age_s=HOUR_S).id

    def add(self, file_id: str = "", owner: str = "") -> Batch:
        file_id = file_id or self.upload(owner=owner)
        return self.batches.add(
            owner or self.owner, endpoint=CHAT, input_file_id=file_id, output_age_s=HOUR_S
        )

    def end(self, batch: Batch) -> Batch:
        ended = replace(batch, status="completed", completed_at=int(self.clock.now))
        self.batches.write(ended)
        return ended


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path / "files", max_batches=3, max_file_age_h=1, max_files_mb=1)


def test_a_new_batch_can_be_read_by_its_owner(stores: Stores) -> None:
    batch = stores.add()
    assert stores.batches.get(batch.id, stores.owner) == batch
    assert stores.batches.of_owner(stores.owner) == stores.batches.unended() == [batch]
    assert batch.expires_at - batch.created_at == WINDOW_S
    other = stores.files.owner("other")
    assert stores.batches.of_owner(other) == []
    for act in (stores.batches.get, stores.batches.cancel):
        with pytest.raises(RequestError, match="no batch") as caught:
            act(batch.id, other)
        assert caught.value.status == 404


def test_an_id_of_another_folder_is_told_from_one_that_never_was(stores: Stores, tmp_path: Path) -> None:
    other = Stores(tmp_path / "other")
    batch = other.add()
    for act in (stores.batches.get, stores.batches.cancel):
        with pytest.raises(RequestError, match="--files-folder") as caught:
            act(batch.id, stores.owner)
        assert caught.value.status == 421
    with pytest.raises(RequestError) as caught:
        stores.add(other.upload())
    assert (caught.value.status, caught.value.param) == (421, "input_file_id")


def test_a_batch_that_has_ended_is_not_read_again(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = stores.add(), stores.add()
    assert set(stores.batches.unended()) == {first, second}
    stores.end(first)
    assert stores.batches.unended() == [second]
    read = []

    def look(folder: Path) -> Batch:
        read.append(folder.name)
        return second

    monkeypatch.setattr(batch_store, "_read", look)
    assert stores.batches.unended() == [second] and read == [second.id]


@pytest.mark.parametrize("batch_id", ["", "..", "../x", "batch_", "batch_" + "g" * 32, "draft-x"])
def test_an_id_is_never_a_path(stores: Stores, batch_id: str) -> None:
    stores.add()
    with pytest.raises(RequestError) as caught:
        stores.batches.get(batch_id, stores.owner)
    assert caught.value.status == 404


def test_a_batch_needs_a_file_of_its_owner_and_purpose(stores: Stores) -> None:
    yours = stores.upload(owner=stores.files.owner("yours"))
    for file_id, status in ((yours, 404), ("file-x", 404), (stores.upload(purpose="ocr"), 400)):
        with pytest.raises(RequestError) as caught:
            stores.add(file_id)
        assert (caught.value.status, caught.value.param) == (status, "input_file_id")
    assert stores.batches.of_owner(stores.owner) == []
    assert not list(stores.files.batches_folder.rglob("input"))


def test_the_input_file_may_be_deleted(stores: Stores) -> None:
    file_id = stores.upload(b"the lines")
    batch = stores.add(file_id)
    stores.files.delete(file_id, stores.owner)
    stores.files.sweep()
    with FileStore.open_held(stores.batches.input_path(batch)) as opened:
        assert opened.read() == b"the lines"


def test_a_file_system_without_links_has_a_copy(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with FileStore.open_held(stores.batches.input_path(stores.add())) as opened:
        assert opened.read() == b"{}\n"


def test_what_batches_hold_takes_room_once(stores: Stores) -> None:
    batch = stores.add(stores.upload(bytes(400_000)))
    stores.files.delete(stores.files.list(stores.owner)[0].id, stores.owner)
    with pytest.raises(RequestError, match="no room"):
        stores.upload(bytes(700_000))
    file_id = stores.upload(bytes(500_000))
    second, third = stores.add(file_id), stores.add(file_id)  # its file counts, not the second names
    assert stores.files.has_room()
    stores.files.delete(file_id, stores.owner)
    with pytest.raises(RequestError, match="no room"):
        stores.upload(bytes(150_000))
    (stores.batches.folder(batch) / "queue.sqlite").write_bytes(bytes(200_000))
    assert not stores.files.has_room()
    for each in (batch, second, third):
        stores.batches.clean(stores.end(each))
    stores.upload(bytes(900_000))
    assert len(stores.batches.of_owner(stores.owner)) == 3


def test_an_owner_has_so_many_batches_at_once(stores: Stores) -> None:
    batches = [stores.add() for _ in range(3)]
    with pytest.raises(RequestError, match="3 of your batches") as caught:
        stores.add()
    assert caught.value.status == 429
    stores.add(owner=stores.files.owner("another"))
    stores.end(batches[0])
    stores.add()


def test_ended_batches_are_bounded_too(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_store, "MAX_KEPT", 2)
    for _ in range(2):
        stores.end(stores.add())
    with pytest.raises(RequestError, match="no room") as caught:
        stores.add()
    assert caught.value.status == 503


def test_a_cancelled_batch_is_cancelling_until_it_ends(stores: Stores) -> None:
    batch = stores.add()
    assert stores.batches.cancelling_at(batch) is None
    cancelled = stores.batches.cancel(batch.id, stores.owner)
    assert (cancelled.status, cancelled.cancelling_at) == ("cancelling", int(stores.clock.now))
    stores.clock.now += 5
    assert stores.batches.cancel(batch.id, stores.owner) == cancelled  # once is enough
    stores.end(batch)
    with pytest.raises(RequestError, match="completed") as caught:
        stores.batches.cancel(batch.id, stores.owner)
    assert caught.value.status == 409
    assert stores.batches.get(batch.id, stores.owner).status == "completed"


def test_a_batch_is_kept_as_long_as_its_files(stores: Stores) -> None:
    ended, lost = stores.end(stores.add()), stores.add()
    stores.clock.now += HOUR_S - 1
    stores.batches.sweep()
    assert ended in stores.batches.of_owner(stores.owner)
    assert sorted(path.name for path in stores.batches.folder(ended).iterdir()) == ["batch.json"]
    stores.clock.now += 1
    stores.batches.sweep()
    assert stores.batches.of_owner(stores.owner) == [lost]
    stores.clock.now = lost.expires_at + HOUR_S  # nobody has run it: its key is gone
    stores.batches.sweep()
    assert stores.batches.of_owner(stores.owner) == []


def test_a_batch_that_cannot_be_read_hides_no_other(stores: Stores) -> None:
    batches = [stores.add() for _ in range(3)]
    (stores.batches.folder(batches[0]) / "batch.json").write_text('{"id": "x", "of_another_version": 1}')
    (stores.batches.folder(batches[1]) / "batch.json").write_bytes(b"\0")
    stores.batches.sweep()
    assert stores.batches.unended() == stores.batches.of_owner(stores.owner) == [batches[2]]
    with pytest.raises(RequestError, match="no batch"):
        stores.batches.get(batches[0].id, stores.owner)


def test_what_a_crash_leaves_of_a_new_batch_is_deleted(stores: Stores) -> None:
    folder = stores.batches.folder(stores.add()).parent
    for name in ("draft-old", "draft-new"):
        (folder / name).mkdir()
        (folder / name / "input").touch()
    os.utime(folder / "draft-old", (0, 0))
    stores.batches.sweep()
    assert [path.name for path in folder.glob("draft-*")] == ["draft-new"]


def test_a_folder_that_cannot_be_used_is_a_503(tmp_path: Path) -> None:
    stores = Stores(tmp_path, max_files_mb=0)
    for act in (stores.batches.unended, stores.batches.sweep, lambda: stores.batches.of_owner("x")):
        with pytest.raises(RequestError, match="turned off") as caught:
            act()
        assert caught.value.status == 503


def test_openais_shape(stores: Stores) -> None:
    shown = replace(stores.add(), errors=[{"code": "x"}], total=3, completed=1, failed=1).describe()
    assert (shown["object"], shown["completion_window"], shown["status"]) == ("batch", "24h", "validating")
    assert shown["errors"] == {"object": "list", "data": [{"code": "x"}]}
    assert shown["request_counts"] == {"total": 3, "completed": 1, "failed": 1}
    assert "owner" not in shown
