"""`phi-vision replicas`: the servers and the balancer, and how they start and stop together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from phi_vision.client.process import serve_command
from phi_vision.client.readiness import STARTING
from phi_vision.config import ServeConfig
from phi_vision.cores import own_cores
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import find_device, visible_gpus
from phi_vision.replicas.balancer import balancer_process, find_haproxy
from phi_vision.replicas.process import KeptProcess, Tell
from phi_vision.replicas.settings import ReplicaSettings
from phi_vision.replicas.shares import Share, check, divide
from phi_vision.replicas.watch import Agreement, Watch
from phi_vision.serving import descriptors, private_folder, startup
from phi_vision.settings import command_line

_LAST_PORT = 65_535
_NOTICE_S = 3.0  # in which HAProxy, which asks each second, learns that a server stops
_SERVERS_END_S = 60.0  # without requests
_LOOK_INTERVAL_S = 0.2


def run(config: ServeConfig, settings: ReplicaSettings, tell: Tell) -> None:
    """Serve until told to stop.

    Args:
        config: of each server; host and port are the balancer's.
        settings: of all together.
        tell: the user.

    Raises:
        UsageError: the machine or the settings do not allow it.
        PhiVisionError: a server did not start.
    """
    descriptors.raise_limit()
    flags = EngineFlags.parse(config.vllm_args, os.environ)
    check(flags, os.environ)
    device = find_device(config.device)
    gpus = visible_gpus() if device.kind == "cuda" else []
    shares = divide(config, device.kind, settings.replicas, gpus=gpus, cores=own_cores())
    common = server_command(config, flags)
    haproxy = find_haproxy()
    with ExitStack() as stack:
        stack.callback(private_folder.remove_what_crashes_left)  # of servers that were killed
        opened = stack.enter_context(startup.listen(config.host, config.port))
        places = range(1, len(shares) + 1)
        ports = [stack.enter_context(_reserve(config.port and config.port + place)) for place in places]
        numbers = [port.getsockname()[1] for port in ports]
        config = replace(config, port=opened.getsockname()[1])
        tell.show(_summary(config, shares, numbers, keyed=_is_keyed(config)))
        balancer = balancer_process(haproxy, opened, config, numbers, tell)
        replicas = _Replicas(config, settings, shares, numbers, common, balancer, tell)
        asyncio.run(replicas.serve(opened))


def server_command(config: ServeConfig, flags: EngineFlags) -> tuple[list[str], dict[str, str]]:
    """The flags and variables that all servers have in common. Keys are in the environment or a file.

    Raises:
        UsageError: keys are given in two ways, or there is no such model.
    """
    if config.api_key is not None and config.api_key_file is not None:
        raise UsageError("give --api-key or --api-key-file, not both")
    env = {} if config.api_key is None else {"VLLM_API_KEY": config.api_key}
    # What 'auto' is, is decided once: the hub may answer one server and not another.
    checkpoint = find_checkpoint(config.model, config.served_model_name, flags.revision)
    model = "demo" if checkpoint.demo_reason else checkpoint.path
    limits = config.limits
    # Each server listens elsewhere, but clients name this host.
    if _is_name(config.host) and not (limits.allowed_hosts is None and _is_keyed(config)):
        limits = replace(limits, allowed_hosts=",".join(filter(None, (limits.allowed_hosts, config.host))))
    limits = replace(limits, stop_notice_s=limits.stop_notice_s or _NOTICE_S)
    own = replace(config, model=model, host=ServeConfig.host, port=ServeConfig.port, api_key=None)
    return [*command_line(own), *command_line(limits), *config.vllm_args], env


class _Replicas:
    def __init__(
        self,
        config: ServeConfig,
        settings: ReplicaSettings,
        shares: Sequence[Share],
        ports: Sequence[int],
        common: tuple[list[str], dict[str, str]],
        balancer: KeptProcess,
        tell: Tell,
    ) -> None:
        flags, env = common
        self._shutdown_timeout_s = config.shutdown_timeout
        self._tell = tell
        self._balancer = balancer
        self._servers = [
            KeptProcess(
                f"server {number}",
                serve_command("--port", str(port), *flags, *share.flags),
                tell,
                label=str(number),
                env={**env, **share.env},
                enter=share.enter,
            )
            for number, (port, share) in enumerate(zip(ports, shares, strict=True), 1)
        ]
        agreement = Agreement()
        self._watches = [
            Watch(f"http://{ServeConfig.host}:{port}", server, agreement, tell, settings.hang_timeout_s)
            for port, server in zip(ports, self._servers, strict=True)
        ]
        self._weights_are_here = asyncio.Event()
        self._signals = 0

    async def serve(self, opened: socket.socket) -> None:
        """Until all have ended. `opened` is what the balancer listens on.

        Raises:
            PhiVisionError: one did not start.
        """
        told = asyncio.Event()

        def on_signal() -> None:
            self._signals += 1
            told.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        watching = [asyncio.create_task(watch.keep()) for watch in self._watches]
        watching.append(asyncio.create_task(self._look_at_the_first()))
        keeping = [asyncio.create_task(self._keep(server)) for server in self._servers]
        balancing = asyncio.create_task(self._balancer.keep())
        telling = asyncio.create_task(told.wait())
        # One of these ends before the signal if it did not start.
        await asyncio.wait((*keeping, *watching, balancing, telling), return_when=asyncio.FIRST_COMPLETED)
        self._tell.say("stopping")
        self._weights_are_here.set()
        opened.close()  # or connections would wait in it for nobody
        await self._stop(keeping, balancing)
        for task in (*watching, telling):
            task.cancel()
        for result in await asyncio.gather(*keeping, balancing, *watching, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _stop(self, keeping: Sequence[asyncio.Task[None]], balancing: asyncio.Task[None]) -> None:
        """No new requests; when those at work have ended, or their time is over, the servers."""
        self._balancer.stop(signal.SIGUSR1)
        deadline = asyncio.get_running_loop().time() + self._shutdown_timeout_s
        while not balancing.done() and asyncio.get_running_loop().time() < deadline and self._signals < 2:
            if any(task.done() for task in keeping):  # one did not start
                break
            await asyncio.sleep(_LOOK_INTERVAL_S)
        for server in self._servers:
            server.stop()
            server.send(signal.SIGTERM)  # the second one ends what is left, and waits for no balancer
        await asyncio.wait(keeping, timeout=_SERVERS_END_S)
        self._balancer.kill()
        for server in self._servers:
            server.kill()

    async def _keep(self, server: KeptProcess) -> None:
        if server is not self._servers[0]:
            await self._weights_are_here.wait()  # the first one downloads them
        await server.keep()

    async def _look_at_the_first(self) -> None:
        """Let the others start when the first has its weights."""
        while True:
            state = self._watches[0].state
            if state != STARTING and not state.startswith("downloading"):
                self._weights_are_here.set()
            if self._balancer.running:
                self._balancer.has_worked = True
            await asyncio.sleep(_LOOK_INTERVAL_S)


def _reserve(port: int) -> socket.socket:
    """Keep a port for a server, also while it is started again: who asks for any free one does not get it.

    Raises:
        UsageError: it is taken.
    """
    if port > _LAST_PORT:
        raise UsageError("--port is too high: the servers listen on the next ones")
    reserved = startup.listen(ServeConfig.host, port)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that the server can listen there
    return reserved


def _summary(config: ServeConfig, shares: Sequence[Share], ports: Sequence[int], *, keyed: bool) -> str:
    address = f"http://{config.host}:{config.port}"
    rows = {
        "servers": f"{len(shares)}: {' | '.join(share.text for share in shares)}",
        "listening": f"{address}/v1",
        "page": None if config.no_page else f"{address}/",
        "metrics": ", ".join(f"http://{ServeConfig.host}:{port}/metrics" for port in ports),
        "files": str(config.limits.files_path),
        "access": "with a key" if keyed else "open to all who reach it",
    }
    return "\n".join(["phi-vision replicas", *(f"  {name:<10} {row}" for name, row in rows.items() if row)])


def _is_keyed(config: ServeConfig) -> bool:
    return bool(config.api_key or config.api_key_file or "VLLM_API_KEY" in os.environ)


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
