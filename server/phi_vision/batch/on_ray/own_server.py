"""A server that a process of the cluster starts for itself, and starts again where it ends."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from phi_vision.client.exchange import Endpoint
from phi_vision.client.process import ServerProcess, ServerStartError

_MAX_STARTS = 3  # in a row that fail


class OwnServer:
    """Starts at once, on a free port of this machine, and at each later start on the same one, if it is free.

    It ends with this process: a thread that lasts as long starts it and waits for its end.

    Args:
        command: what to run, by the port; 0: the system chooses. It takes its key from `$VLLM_API_KEY`.
    """

    def __init__(self, command: Callable[[int], Sequence[str]]) -> None:
        self._command = command
        self._key = secrets.token_urlsafe()
        self._ready: Future[Endpoint] = Future()
        Thread(target=self._keep_up, name="own-server", daemon=True).start()

    async def endpoint(self) -> Endpoint:
        """Where it is, once it takes requests.

        Raises:
            ServerStartError: it does not start, several times in a row.
        """
        return await asyncio.shield(asyncio.wrap_future(self._ready))  # others wait for it too

    def _keep_up(self) -> None:
        port = failures = 0
        while True:
            try:
                port = self._run(port)
                failures = 0
            except Exception as error:
                failures += 1
                port = 0  # a connection of another program may have taken the old one meanwhile
                if failures == _MAX_STARTS or not isinstance(error, ServerStartError):
                    self._ready.set_exception(error)
                    return

    def _run(self, port: int) -> int:
        """Run it until it ends; its port."""
        with (
            tempfile.TemporaryDirectory() as folder,
            ServerProcess(
                self._command(port), Path(folder, "log.txt"), env={"VLLM_API_KEY": self._key}
            ) as server,
        ):
            server.wait_until_ready()
            self._ready.set_result(Endpoint(server.base_url, self._key))
            server.process.wait()
            self._ready = Future()
            return server.port
