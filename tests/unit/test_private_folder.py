"""What a server leaves on the disk: nothing, also after a crash and the next start."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from phi_vision.errors import UsageError
from phi_vision.serving import private_folder
from phi_vision.serving.private_folder import PrivateFolder

# A server's process as far as its folder goes: it maps a shared segment without telling the tracker.
OWNER = """
import mmap, os, sys
from phi_vision.serving import private_folder
folder = private_folder.PrivateFolder()
os.environ.update(folder.environment())
segment = os.open(f"/dev/shm/{folder.path.name}", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(segment, 4096)
mapped = mmap.mmap(segment, 4096)
private_folder.record_shared_memory()
(folder.path / "socket").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the place of the temporary one, with a name short enough for sockets."""
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("VLLM_RPC_BASE_PATH", short)
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it when vLLM is imported
        yield Path(short)


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().decode().strip())
    finally:
        process.kill()
        process.communicate()


def test_the_folder_is_private_and_goes_with_its_server(temporary: Path) -> None:
    folder = PrivateFolder()
    assert folder.path.parent == temporary and folder.path.stat().st_mode & 0o777 == 0o700
    variables = folder.environment()
    assert variables["VLLM_RPC_BASE_PATH"] == variables["TMPDIR"] == str(folder.path)
    assert not variables["TORCHINDUCTOR_CACHE_DIR"].startswith(str(temporary))  # kept
    folder.remove()
    assert list(temporary.iterdir()) == []


def test_the_next_start_removes_what_a_crash_left_and_nothing_else(temporary: Path) -> None:
    not_ours = temporary / "phi-vis-of-somebody"
    not_ours.mkdir()
    with owner() as (crashed, left), owner() as (_, alive):
        segments = [Path("/dev/shm", path.name) for path in (left, alive)]
        crashed.send_signal(signal.SIGKILL)
        crashed.wait()
        assert all(path.exists() for path in (left / "socket", *segments))
        mine = PrivateFolder()
        try:
            assert set(temporary.iterdir()) == {not_ours, alive, mine.path}
            assert [segment.exists() for segment in segments] == [False, True]
        finally:
            segments[1].unlink()
            mine.remove()


def test_a_segment_that_only_has_the_name_of_ours_stays(tmp_path: Path) -> None:
    segment = Path("/dev/shm", f"phi-vision-test-{os.getpid()}")
    segment.touch()
    try:
        record = tmp_path / "record"
        record.write_text(f"{segment.stat().st_ino + 1} {segment.name}\n")
        private_folder._remove_shared_memory(record)
        assert segment.exists()
    finally:
        segment.unlink()


def test_a_full_temporary_folder_is_one_line(temporary: Path) -> None:
    """Every write fails, by a limit of the system on the size of files."""
    result = subprocess.run(
        [sys.executable, "-m", "phi_vision", "serve", "--model", "demo", "--device", "cpu", "--port", "0"],
        capture_output=True,
        text=True,
        env={name: os.environ[name] for name in os.environ if not name.startswith("COV")},  # it writes too
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        check=False,
    )
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert f"cannot write to the temporary folder {temporary}: File too large" in line and "TMPDIR" in line
    assert list(temporary.iterdir()) == []


def test_a_temporary_folder_too_deep_for_sockets_is_one_line(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", str(deep))
    with pytest.raises(UsageError, match="too long for sockets"):
        PrivateFolder()
    assert list(deep.iterdir()) == []
