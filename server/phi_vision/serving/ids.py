"""Ids of files and batches, each with a mark of the folder that it was made in.

By the mark a server tells an id that never was, or is gone, from one that belongs to another server's folder,
and refuses it instead of answering for the other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from phi_vision.errors import RequestError

HEX = "[0-9a-f]{32}"  # of an id, behind its prefix

_MARK_CHARS = 8
_MARKED = re.compile(rf"(?:file-|batch_)(?=({HEX})$)([0-9a-f]{{{_MARK_CHARS}}})")


class Ids:
    """The ids of one folder.

    Args:
        secret: of the folder.
    """

    def __init__(self, secret: bytes) -> None:
        self._mark = hmac.new(secret, b"mark", hashlib.sha256).hexdigest()[:_MARK_CHARS]

    def new(self, prefix: str) -> str:
        """An id that nobody can guess."""
        return f"{prefix}{self._mark}{secrets.token_hex((32 - _MARK_CHARS) // 2)}"

    def check(self, name: str) -> None:
        """Refuse an id that is not known here, if it is of another folder.

        Raises:
            RequestError: 421.
        """
        found = _MARKED.match(name)
        if found and found[2] != self._mark:
            raise RequestError(
                f"{name!r} is of another --files-folder than this server's: servers behind one router need "
                "one in common, which outlives them",
                status=421,
            )
