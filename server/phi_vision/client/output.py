"""Write a file whole or not at all, with the mode that a shell's `>` would leave."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from phi_vision.errors import UsageError


def check_writable(path: Path) -> None:
    """Fail before the model has worked, not after.

    Raises:
        UsageError: the file cannot be written.
    """
    with _as_usage_error(path):
        target = path.resolve()
        if target.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder")
        if target.exists() and not os.access(target, os.W_OK):
            raise UsageError(f"cannot write {path}: Permission denied")
        if not _is_device(target):
            with tempfile.NamedTemporaryFile(dir=target.parent):
                pass


def write_whole(path: Path, text: str) -> None:
    """Put a new file in the place of an old one, see `replacing`.

    Raises:
        UsageError: the file cannot be written; the old one is as it was.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # for halves of surrogate pairs


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A draft that takes the place of a file where the block ends well.

    It gets the mode of the old file; a link stays and its target changes.

    Raises:
        UsageError: the file cannot be written; the old one is as it was.
    """
    with _as_usage_error(path):
        target = path.resolve()
        if _is_device(target):
            with target.open("wb") as device:
                yield device
            return
        draft = target.with_name(f".phi-vision-{secrets.token_hex(8)}")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                yield file
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    """A terminal, a pipe, `/dev/null`: written to, never replaced."""
    return path.exists() and not path.is_file()


@contextlib.contextmanager
def _as_usage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter: a loop of links, before Python 3.13
        raise UsageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
