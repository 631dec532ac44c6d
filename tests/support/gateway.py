"""A real HAProxy (Debian's package `haproxy`) with our configuration, in front of servers of a test's own."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.programs import program
from tests.support.prometheus import DEPLOY
from tests.support.serving import eventually

CONFIG = DEPLOY / "haproxy.cfg"
_NAME = "servers.test"
_TYPE_A = 1


class Names:
    """What answers for the name of the servers, on a port of its own.

    Args:
        addresses: of the servers; may be changed.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            asked, client = self._socket.recvfrom(4096)
            end = asked.index(0, 12) + 5  # of the question: the name, its type and its class
            addresses = self.addresses if struct.unpack("!H", asked[end - 4 : end - 2])[0] == _TYPE_A else []
            head = asked[:2] + struct.pack("!5H", 0x8180, 1, len(addresses), 0, 0)
            answers = (
                struct.pack("!3HIH4s", 0xC00C, _TYPE_A, 1, 1, 4, socket.inet_aton(address))
                for address in addresses
            )
            self._socket.sendto(head + asked[12:end] + b"".join(answers), client)


def free_port(addresses: Sequence[str]) -> int:
    """One that is free on all of these addresses."""
    while True:
        with socket.socket() as first:
            first.bind((addresses[0], 0))
            port: int = first.getsockname()[1]
        try:
            for address in addresses[1:]:
                with socket.socket() as other:
                    other.bind((address, port))
        except OSError:
            continue
        return port


@contextmanager
def running_gateway(folder: Path, addresses: Sequence[str], servers_port: int) -> Iterator[str]:
    """Its URL, once it answers. Of the configuration only its port and whom it asks for names are others."""
    port = free_port(["127.0.0.1"])
    config = CONFIG.read_text()
    for ours, here in (
        ("    bind :8000\n", f"    bind 127.0.0.1:{port}\n"),
        ("    parse-resolv-conf\n", f"    nameserver test 127.0.0.1:{Names(addresses).port}\n"),
    ):
        assert ours in config
        config = config.replace(ours, here)
    (folder / "haproxy.cfg").write_text(config)
    log = folder / "haproxy.log"
    command = [program("haproxy", "haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stdout=output, stderr=output, env={"SERVERS": f"{_NAME}:{servers_port}"}
        ) as process,
    ):

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/haproxy").status_code == 200
            except httpx.TransportError:
                return False

        try:
            eventually(answers)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
