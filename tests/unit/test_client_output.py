"""`--output`: the file is written whole, or not at all, and as a shell would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from phi_vision.client import output
from phi_vision.errors import UsageError


@pytest.fixture
def umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file_follows_the_umask_and_an_old_one_keeps_its_mode(tmp_path: Path, umask: None) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    output.write_whole(new, "a")
    assert mode(new) == 0o640
    old.write_text("before")
    old.chmod(0o604)
    output.write_whole(old, "after")
    assert (mode(old), old.read_text()) == (0o604, "after")


def test_a_link_stays_and_its_target_changes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to(target)
    output.check_writable(link)
    output.write_whole(link, "a")
    assert link.is_symlink() and target.read_text() == "a"


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    output.check_writable(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    output.write_whole(fifo, "a")
    assert os.read(reader, 10) == b"a" and fifo.is_fifo()
    os.close(reader)


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("where", ["replace", "fchmod"])
def test_no_draft_is_left_behind(
    tmp_path: Path, fault: BaseException, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answer"
    path.write_text("before")

    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(UsageError if isinstance(fault, OSError) else type(fault)):
        output.write_whole(path, "after")
    assert [p.name for p in tmp_path.iterdir()] == ["answer"] and path.read_text() == "before"
