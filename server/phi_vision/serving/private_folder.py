"""A private temporary folder for each server, removed when it ends or at the next start after a crash.

vLLM creates its sockets and rendezvous files in the temporary folder and leaves them there even after a
regular stop. The private folder is locked while its server runs, so the next start can tell which folders a
crash has left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

from phi_vision.errors import UsageError

_FOLDER_VARIABLE = "PHI_VISION_FOLDER"
_SERVER_VARIABLE = "PHI_VISION_SERVER"  # the process id of the folder's owner
_PREFIX = "phi-vis-"  # short, as the name of every socket is to fit
_LOCK = "lock"
_SHARED_MEMORY = "shared_memory"  # one line a segment: its inode and its name
_SHARED_MEMORY_FOLDER = Path("/dev/shm")
_PROBE_BYTES = 1 << 20
_SOCKET_NAME_BYTES = 37  # "/" and vLLM's 36 characters
_MAX_PATH_BYTES = (107 if sys.platform == "linux" else 103) - _SOCKET_NAME_BYTES


class PrivateFolder:
    """A locked folder that only this user can read.

    Raises:
        UsageError: the temporary folder is full, not writable, or its name too long for sockets.
    """

    def __init__(self) -> None:
        base = _base()
        _remove_folders_of_dead_servers(base)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            if len(os.fsencode(self.path)) > _MAX_PATH_BYTES:
                raise OSError(0, "its name is too long for sockets")
            _probe(self.path / "probe")
            self._lock = (self.path / "new").open("w")
            # A record lock: it ends with this process and is not inherited by forked ones. Closing another
            # handle of the file would release it too, so the file is not opened again here.
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            # Other starts look for this name only, so they never find it without its lock.
            (self.path / "new").rename(self.path / _LOCK)
        except OSError as error:
            if hasattr(self, "path"):
                shutil.rmtree(self.path, ignore_errors=True)
            raise UsageError(
                f"cannot write to the temporary folder {base}: {error.strerror}; free some space there, "
                "or set TMPDIR to another folder"
            ) from error

    def environment(self) -> dict[str, str]:
        """Variables that make vLLM's processes, and the libraries in them, put their files there."""
        here = str(self.path)
        variables = {"VLLM_RPC_BASE_PATH": here, "TMPDIR": here}
        variables |= {_FOLDER_VARIABLE: here, _SERVER_VARIABLE: str(os.getpid())}
        # By default this cache is in the temporary folder, but it should survive the server.
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
            root = os.environ.get("VLLM_CACHE_ROOT") or os.path.join(cache, "vllm")
            variables["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(root, "torchinductor")
        return variables

    def remove(self) -> None:
        """Remove the folder, once the server's processes have ended."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_what_crashes_left() -> None:
    """Remove the folders and the shared memory of this user's servers that were killed."""
    _remove_folders_of_dead_servers(_base())


def of_this_server() -> Path | None:
    """The folder of the server that this process belongs to, if it is one of a server's."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    return None if folder is None else Path(folder)


def record_shared_memory() -> None:
    """Record the segments under /dev/shm that the server's processes use, for the start after a crash.

    Usually Python's resource tracker removes them, but a crash may kill the tracker too. A server runs on
    without the record where it cannot be written.
    """
    folder = of_this_server()
    if folder is None or not _SHARED_MEMORY_FOLDER.is_dir():
        return
    with contextlib.suppress(OSError, psutil.Error):
        server = psutil.Process(int(os.environ[_SERVER_VARIABLE]))
        names: set[str] = set()
        for process in [server, *server.children(recursive=True)]:
            names |= mapped_shared_memory(process.pid)
        segments = [_SHARED_MEMORY_FOLDER / name for name in sorted(names)]
        lines = [f"{segment.stat().st_ino} {segment.name}\n" for segment in segments if segment.exists()]
        draft = folder / f"{_SHARED_MEMORY}.{os.getpid()}"  # several API processes may write at once
        draft.write_text("".join(lines))
        draft.replace(folder / _SHARED_MEMORY)


def mapped_shared_memory(process_id: int) -> set[str]:
    """Names under /dev/shm that a process has mapped.

    Not by psutil's `memory_maps`, which also counts the pages of each mapping: that takes long for an engine.
    """
    prefix = f"{_SHARED_MEMORY_FOLDER}/"
    try:
        lines = Path(f"/proc/{process_id}/maps").read_text().splitlines()
    except OSError:  # it has ended
        return set()
    paths = [line.split(maxsplit=5)[-1] for line in lines if prefix in line]
    return {path.removeprefix(prefix) for path in paths if not path.endswith("(deleted)")}


def _base() -> str:
    """The folder to create it in; `tempfile` alone would silently skip a TMPDIR that is full."""
    if chosen := os.environ.get("VLLM_RPC_BASE_PATH") or os.environ.get("TMPDIR"):
        return chosen
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:  # no usual place is writable
        raise UsageError(f"{error.strerror}; free some space, or set TMPDIR to another folder") from error


def _probe(file: Path) -> None:
    """Fail at once if there is no space, where vLLM would hang for minutes."""
    with file.open("wb") as opened:
        opened.write(bytes(_PROBE_BYTES))
        opened.flush()
        os.fsync(opened.fileno())
    file.unlink()


def _remove_folders_of_dead_servers(base: str) -> None:
    for folder in Path(base).glob(f"{_PREFIX}*"):
        # Other users may create anything under such a name, and another start may be cleaning up too.
        with contextlib.suppress(OSError, ValueError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its owner lives
                _remove_shared_memory(folder / _SHARED_MEMORY)
                shutil.rmtree(folder, ignore_errors=True)


def _remove_shared_memory(record: Path) -> None:
    if not record.exists():
        return
    for line in record.read_text().splitlines():
        inode, name = line.split(maxsplit=1)
        segment = _SHARED_MEMORY_FOLDER / Path(name).name
        with contextlib.suppress(FileNotFoundError):
            if segment.stat().st_ino == int(inode):
                segment.unlink()
