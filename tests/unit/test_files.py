"""The folder of uploaded files."""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving import files
from phi_vision.serving.files import FileStore, StoredFile

MB = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(Limits(files_folder=str(tmp_path / "files"), max_files_mb=3))


def put(
    store: FileStore, owner: str, data: bytes = b"%PDF-", name: str = "a.pdf", age_s: int = 60
) -> StoredFile:
    draft = store.reserve(owner, len(data) + 1000)
    return store.keep(draft, io.BytesIO(data), filename=name, purpose="ocr", age_s=age_s)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"lock", "secret"}


def test_a_file_is_kept_as_it_came(store: FileStore) -> None:
    owner = store.owner("key")
    data, name = os.urandom(300_000) + b"\n{}", 'x\n"../../etc/passwd\u202e\0'
    file = put(store, owner, data, name)
    assert store.read(file.id, owner) == data
    assert store.get(file.id, owner) == file and store.list(owner) == [file]
    assert (file.filename, file.bytes) == (name, len(data))


def test_a_later_start_and_another_process_find_it(store: FileStore, tmp_path: Path) -> None:
    file = put(store, store.owner("key"))
    other = FileStore(Limits(files_folder=str(tmp_path / "files")))
    assert other.read(file.id, other.owner("key")) == b"%PDF-"
    token = store.sign(file.id, store.owner("key"), int(time.time()) + 60)
    assert other.signed_token(token) == (file.id, store.owner("key"))


def test_each_key_sees_its_own_files(store: FileStore) -> None:
    mine, yours = store.owner("mine"), store.owner("yours")
    file = put(store, mine)
    for act in (store.get, store.read, store.delete):
        with pytest.raises(RequestError, match="there is no file") as caught:
            act(file.id, yours)
        assert caught.value.status == 404
    assert store.list(yours) == [] and store.list(mine) == [file]


def test_nothing_on_disk_tells_a_key(store: FileStore, tmp_path: Path) -> None:
    put(store, store.owner("sk-secret"))
    for path in (tmp_path / "files").rglob("*"):
        assert "secret" not in path.parent.name
        assert not path.stat().st_mode & 0o077
        assert path.is_dir() or b"sk-secret" not in path.read_bytes()


@pytest.mark.parametrize(
    "file_id", ["", "..", "../lock", "file-", "lock", "file-" + "g" * 32, "file-" + "0" * 32 + "\n"]
)
def test_an_id_is_never_a_path(store: FileStore, file_id: str) -> None:
    put(store, store.owner(""))
    with pytest.raises(RequestError) as caught:
        store.read(file_id, store.owner(""))
    assert caught.value.status == 404


def test_an_id_of_another_folder_is_told_from_one_that_is_gone(store: FileStore, tmp_path: Path) -> None:
    other = FileStore(Limits(files_folder=str(tmp_path / "other")))
    for elsewhere, status in ((other, 421), (store, 404)):
        file = put(elsewhere, elsewhere.owner("key"))
        elsewhere.delete(file.id, elsewhere.owner("key"))
        for act in (store.get, store.read, store.delete):
            with pytest.raises(RequestError) as caught:
                act(file.id, store.owner("key"))
            assert caught.value.status == status
            assert ("--files-folder" in str(caught.value)) == (status == 421)
    with pytest.raises(RequestError) as caught:
        store.get("file-" + "0" * 31, store.owner("key"))  # no id at all
    assert caught.value.status == 404


def test_a_deleted_file_is_gone(store: FileStore, tmp_path: Path) -> None:
    file = put(store, "o" * 32)
    store.delete(file.id, "o" * 32)
    assert store.list("o" * 32) == [] and names(tmp_path) == set()


def test_an_expired_file_is_not_there_and_then_deleted(store: FileStore, tmp_path: Path) -> None:
    kept = put(store, "o" * 32)
    expired = put(store, "p" * 32, age_s=-1)
    with pytest.raises(RequestError, match="there is no file"):
        store.get(expired.id, "p" * 32)
    assert store.list("p" * 32) == [] and expired.id in names(tmp_path)
    store.sweep()
    assert names(tmp_path) == {kept.id}
    assert not (tmp_path / "files" / ("p" * 32)).exists()


def test_what_an_upload_that_was_cut_off_leaves_is_deleted(store: FileStore, tmp_path: Path) -> None:
    draft, running = store.reserve("o" * 32, 10), store.reserve("o" * 32, 10)
    os.utime(draft, (0, time.time() - 7300))
    store.sweep()
    assert names(tmp_path) == {running.name}


def test_the_folder_is_bounded_by_what_is_announced(store: FileStore) -> None:
    draft = store.reserve("o" * 32, 2 * MB)
    with pytest.raises(RequestError, match="no room") as caught:
        store.reserve("p" * 32, MB + 1)
    assert caught.value.status == 503
    draft.unlink()
    store.reserve("p" * 32, MB + 1)


def test_small_files_are_bounded_too(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 3)
    for _ in range(3):
        put(store, "o" * 32)
    with pytest.raises(RequestError, match="no room"):
        put(store, "p" * 32)


def test_the_bound_holds_for_many_at_once(tmp_path: Path) -> None:
    limits = Limits(files_folder=str(tmp_path), max_files_mb=3)

    def upload(number: int) -> bool:
        try:
            put(FileStore(limits), f"{number % 3:032x}", bytes(500_000))
        except RequestError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(upload, range(24)))
    assert sum(kept) == 5  # each has a head of some bytes
    assert sum(path.stat().st_size for path in tmp_path.rglob("file-*")) <= 3 * MB


def opened(folder: str) -> FileStore:
    return FileStore(Limits(files_folder=folder, max_files_mb=3))


def wait_for_all(processes: Barrier) -> None:
    processes.wait()


def keep_one(folder: str, key: str) -> str | None:
    """The id of a file that was kept; None where there was no room."""
    store = opened(folder)
    try:
        return put(store, store.owner(key), bytes(500_000)).id
    except RequestError:
        return None


def names_of(folder: str, key: str) -> set[str]:
    store = opened(folder)
    return {file.id for file in store.list(store.owner(key))}


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """As the API processes of `--api-server-count 2` do: one secret, one bound, and each sees all files."""
    folder, keys = str(tmp_path / "files"), [f"key {number % 3}" for number in range(24)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, wait_for_all, (spawn.Barrier(2),)) as processes:
        kept = list(processes.map(keep_one, [folder] * len(keys), keys))
        files = {file_id: key for file_id, key in zip(kept, keys, strict=True) if file_id is not None}
        assert len(files) == 5  # each has a head of some bytes
        store = opened(folder)
        for key in set(keys):
            expected = {file_id for file_id, of in files.items() if of == key}
            assert names_of(folder, key) == processes.submit(names_of, folder, key).result() == expected
        deleted, key = files.popitem()
        store.delete(deleted, store.owner(key))
        assert deleted not in processes.submit(names_of, folder, key).result()
        assert processes.submit(keep_one, folder, key).result() in names_of(folder, key)


def test_a_token_stands_for_a_file_until_it_expires(store: FileStore) -> None:
    owner = store.owner("key")
    file = put(store, owner)
    token = store.sign(file.id, owner, int(time.time()) + 60)
    for url in (f"http://any.example:8000/files/{token}", f"https://x/below/files/{token}"):
        assert store.signed(url) == (file.id, owner)
    with pytest.raises(RequestError, match="expired"):
        store.signed_token(store.sign(file.id, owner, int(time.time()) - 1))
    with pytest.raises(RequestError):
        store.sign(file.id, store.owner("other"), int(time.time()) + 60)


@pytest.mark.parametrize("change", ["owner", "time", "signature", "id", "short"])
def test_a_token_that_was_changed_is_none(store: FileStore, change: str) -> None:
    owner = store.owner("key")
    parts = store.sign(put(store, owner).id, owner, int(time.time()) + 60).split(".")
    place = {"id": 0, "owner": 1, "time": 2, "signature": 3, "short": 3}[change]
    parts[place] = {
        "id": "file-" + "0" * 32,
        "owner": "0" * 32,
        "time": "9" * 12,
        "signature": "0" * 64,
        "short": "0",
    }[change]
    assert store.signed_token(".".join(parts)) is None


@pytest.mark.parametrize("url", ["data:,files/x", "http://x/files/", "http://x/a.png", "file:///files/a"])
def test_other_urls_are_not_ours(store: FileStore, url: str) -> None:
    assert store.signed(url) is None


def test_a_folder_that_cannot_be_used_is_said_to_those_who_upload(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = FileStore(Limits(files_folder=str(tmp_path / "file" / "below")))
    off = FileStore(Limits(files_folder=str(tmp_path), max_files_mb=0))
    for store, reason in ((broken, "Not a directory"), (off, "turned off")):
        assert store.reason and reason in store.reason
        with pytest.raises(RequestError, match=reason) as caught:
            put(store, store.owner("key"))
        assert caught.value.status == 503
        assert store.signed("http://x/a.png") is None  # pictures by URL are read all the same


def test_a_folder_that_fails_later_is_a_503(store: FileStore, tmp_path: Path) -> None:
    put(store, "o" * 32)
    (tmp_path / "files").rename(tmp_path / "gone")
    with pytest.raises(RequestError, match="cannot be used now") as caught:
        put(store, "o" * 32)
    assert caught.value.status == 503
