"""The program that answers while the server starts (`startup_server`): started, told the state, and relieved.

It shares the listening socket with the launcher and the server. When the server is about to accept, it stops
accepting first and says so: a connection waits in the socket for one of the two, and none is refused or lost.
It is told through a socket in the server's private folder, which all processes of the server know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from phi_vision.processes import PLAIN_ENVIRONMENT, tie_to_parent
from phi_vision.serving import private_folder
from phi_vision.serving.origin_rule import OriginRule
from phi_vision.serving.startup_server import STOP

_CONTROL = "starting"  # the socket's name
_STOPS_WITHIN_S = 30.0  # a busy machine may keep it from running; then the server starts without its answer


class StartupProcess:
    """Answers until the server does, or this process ends.

    Args:
        listening: the socket to answer on, bound.
        folder: the server's private folder.
        rule: which requests are refused.
        client_timeout_s: for an exchange.
        has_page: whether the web page is there.
    """

    def __init__(
        self,
        listening: socket.socket,
        folder: Path,
        rule: OriginRule,
        client_timeout_s: float,
        *,
        has_page: bool,
    ) -> None:
        path = str(folder / _CONTROL)
        settings = {**vars(rule), "client_timeout_s": client_timeout_s, "has_page": has_page}
        program = [sys.executable, "-P", "-m", "phi_vision.serving.startup_server"]
        self._control = socket.socket(socket.AF_UNIX)
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(path)
            control.listen()
            fds = (listening.fileno(), control.fileno())
            process = subprocess.Popen(
                [*program, *map(str, fds), json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                env={name: os.environ[name] for name in PLAIN_ENVIRONMENT if name in os.environ},
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C is for the launcher to handle
                preexec_fn=tie_to_parent,
            )
            self._control.connect(path)
        threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie

    def say(self, **state: Any) -> None:
        """What `/readyz` answers from now on: `status`, and what belongs to it."""
        with contextlib.suppress(OSError):  # it has ended; the start goes on
            self._control.sendall(json.dumps(state).encode() + b"\n")


async def relieve() -> None:
    """Have the program stop accepting, in whichever of the server's processes; return once it has."""
    folder = private_folder.of_this_server()
    if folder is None:
        return
    with contextlib.suppress(OSError, TimeoutError):  # there is none, or another process has relieved it
        async with asyncio.timeout(_STOPS_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(str(folder / _CONTROL))
            try:
                writer.write(STOP)
                await reader.readline()
            finally:
                writer.close()
