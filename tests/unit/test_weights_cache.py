"""What of a checkpoint is on the disk, with each fault that a download or a disk can leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from phi_vision.planning.weights_cache import (
    INDEX,
    cache_folder,
    find_corrupt,
    free_bytes,
    inspect_cache,
    inspect_folder,
    is_needed,
)

from tests.support.hub_cache import COMMIT, FIRST, HUB_ID, SECOND, SHARDED, fill, tensors


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def faults() -> dict[str, str | None]:
    return {file.name: file.fault for file in inspect_cache(HUB_ID).faulty}


@pytest.mark.parametrize("listed", [True, False])
def test_a_whole_checkpoint(cache: Path, listed: bool) -> None:
    snapshot = fill(cache, listed=listed)
    found = inspect_cache(HUB_ID)
    assert found.is_whole and found.folder == snapshot and cache_folder() == cache
    needed = {name: len(content) for name, content in SHARDED.items() if is_needed(name)}
    assert {file.name: file.present_bytes for file in found.files} == needed
    assert found.missing_bytes == 0 and found.present_bytes == sum(needed.values())
    read: list[int] = []
    assert not list(find_corrupt(found, read.append))
    assert sum(read) == found.present_bytes
    assert inspect_cache(HUB_ID, COMMIT) == found


def test_programs_and_other_folders_are_not_needed() -> None:
    names = ("model.safetensors", "tokenizer.model", "chat_template.jinja", "modeling.py", "original/a.json")
    assert [is_needed(name) for name in names] == [True, True, True, False, False]


def test_nothing_is_cached(cache: Path) -> None:
    for _ in range(2):
        found = inspect_cache(HUB_ID)
        assert (found.folder, found.is_whole, found.missing_bytes) == (None, False, None)
        cache.mkdir(exist_ok=True)
    fill(cache)
    assert inspect_cache(HUB_ID, "v2").folder is None


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", [FIRST, SECOND, INDEX])
def test_a_missing_file(cache: Path, name: str, listed: bool) -> None:
    (fill(cache, listed=listed) / name).unlink()
    assert faults() == {name: "missing"}
    found = inspect_cache(HUB_ID)
    assert not found.is_whole and found.missing_bytes == (len(SHARDED[name]) if listed else None)


def test_a_link_to_nothing(cache: Path) -> None:
    (fill(cache) / FIRST).resolve().unlink()
    assert faults() == {FIRST: "missing"}


def test_shards_are_counted_where_the_index_is_missing_too(cache: Path) -> None:
    snapshot = fill(cache, listed=False)
    (snapshot / INDEX).unlink()
    (snapshot / SECOND).unlink()
    assert faults() == {INDEX: "missing", SECOND: "missing"}


@pytest.mark.parametrize("listed", [True, False])
def test_weights_that_are_cut_short(cache: Path, listed: bool) -> None:
    with (fill(cache, listed=listed) / FIRST).open("r+b") as opened:
        opened.truncate(300)
    size = len(SHARDED[FIRST])
    assert faults() == {FIRST: f"incomplete: 300 of {size} bytes"}
    assert inspect_cache(HUB_ID).missing_bytes == size


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\0" * 100, (9).to_bytes(8, "little") + b"[1, 2, 3]"]
)
def test_weights_that_are_none(cache: Path, content: bytes) -> None:
    (fill(cache, listed=False) / SECOND).write_bytes(content)
    assert faults() == {SECOND: "not a safetensors file"}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"weight_map": 1}'])
def test_an_index_that_is_none(cache: Path, content: bytes) -> None:
    (fill(cache, listed=False) / INDEX).write_bytes(content)
    assert faults() == {INDEX: "not an index of weights"}


@pytest.mark.parametrize("name", [FIRST, "tokenizer.json"])
@pytest.mark.parametrize("listed", [True, False])
def test_contents_that_are_not_what_was_downloaded(cache: Path, name: str, listed: bool) -> None:
    file = fill(cache, listed=listed) / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = inspect_cache(HUB_ID)
    assert found.is_whole
    assert [each.name for each in find_corrupt(found)] == [name]


def test_a_listing_that_cannot_be_read_is_none(cache: Path) -> None:
    storage = fill(cache).parents[1]
    (storage / "trees" / f"{COMMIT}.json").write_text('{"files": {"config.json": {}}}')
    assert inspect_cache(HUB_ID).is_whole


def test_a_folder_of_the_users_own_has_no_digests(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not inspect_folder(tmp_path).is_whole
    (tmp_path / "model.safetensors").write_bytes(tensors(10))
    found = inspect_folder(tmp_path)
    assert found.is_whole and [file.digest for file in found.files] == [None, None]
    assert not list(find_corrupt(found))


def test_free_bytes_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0
