"""`phi-vision replicas`: the servers and the balancer, and how they start and stop together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace

from phi_vision.client.readiness import STARTING
from phi_vision.config import ServeConfig
from phi_vision.cores import own_cores
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import find_device, visible_gpus
from phi_vision.replicas.balancer import Balancer
from phi_vision.replicas.front import http_server
from phi_vision.replicas.health import Health
from phi_vision.replicas.members import Member, Members
from phi_vision.replicas.process import ReplicaProcess, Tell
from phi_vision.replicas.relay import session
from phi_vision.replicas.settings import ReplicaSettings
from phi_vision.replicas.shares import Share, check, divide
from phi_vision.serving import descriptors, startup
from phi_vision.settings import command_line

_GRACE_S = 30.0  # beyond `--shutdown-timeout`, for a server to end after its requests
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
    words, env = server_command(config, flags)
    with startup.listen(config.host, config.port) as opened:
        config = replace(config, port=opened.getsockname()[1])
        tell.show(_summary(config, shares, keyed=_is_keyed(config)))
        asyncio.run(_Replicas(config, settings, shares, words, env, tell).serve(opened))


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
    own = replace(config, model=model, host=ServeConfig.host, port=ServeConfig.port, api_key=None)
    return [*command_line(own), *command_line(limits), *config.vllm_args], env


class _Replicas:
    def __init__(
        self,
        config: ServeConfig,
        settings: ReplicaSettings,
        shares: Sequence[Share],
        flags: Sequence[str],
        env: dict[str, str],
        tell: Tell,
    ) -> None:
        self._config = config
        self._hang_timeout_s = settings.hang_timeout_s
        self._tell = tell
        self._members = Members([Member(number) for number in range(1, len(shares) + 1)])
        self._servers = [
            ReplicaProcess(member, share, flags, env, tell)
            for member, share in zip(self._members.all, shares, strict=True)
        ]
        self._weights_are_here = asyncio.Event()
        self._stopping = False

    async def serve(self, opened: socket.socket) -> None:
        """Until all servers have ended.

        Raises:
            PhiVisionError: one did not start.
        """
        async with session() as http:
            self._balancer = Balancer(self._members, http, self._config.limits)
            health = Health(http, self._hang_timeout_s)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop)
            front = http_server(self._balancer.app)
            accepting = asyncio.create_task(front.serve([opened]))
            keeping = [asyncio.create_task(self._keep(server)) for server in self._servers]
            helping = [asyncio.create_task(health.watch(server)) for server in self._servers]
            helping.append(asyncio.create_task(self._look()))
            # One ends before the signal if it did not start.
            await asyncio.wait((*keeping, *helping), return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping:
                self._stop()
            results = await asyncio.gather(*keeping, return_exceptions=True)
            front.should_exit = True
            await accepting
            for task in helping:
                task.cancel()
            results += await asyncio.gather(*helping, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep(self, server: ReplicaProcess) -> None:
        if server is not self._servers[0]:
            await self._weights_are_here.wait()  # the first one downloads them
        await server.keep()

    async def _look(self) -> None:
        """Let the others start when the first has its weights, and say which servers are ready."""
        first = self._members.all[0]
        said: dict[int, str | None] = {}
        while True:
            if first.state != STARTING and not first.state.startswith("downloading"):
                self._weights_are_here.set()
            for member in self._members.all:
                if member.ready and said.get(member.number) != member.url:
                    said[member.number] = member.url
                    self._tell.say(f"server {member.number} is ready ({member.url})")
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def _stop(self) -> None:
        """Take no more requests, and let the servers finish theirs; the second time, end them."""
        if not self._stopping:
            self._stopping = True
            self._tell.say("stopping")
            self._balancer.stop()
            self._weights_are_here.set()
            timeout_s = self._config.shutdown_timeout + _GRACE_S
            asyncio.get_running_loop().call_later(timeout_s, self._kill)
        for server in self._servers:
            server.stop()

    def _kill(self) -> None:
        for server in self._servers:
            server.kill()


def _summary(config: ServeConfig, shares: Sequence[Share], *, keyed: bool) -> str:
    address = f"http://{config.host}:{config.port}"
    rows = {
        "servers": f"{len(shares)}: {' | '.join(share.text for share in shares)}",
        "listening": f"{address}/v1",
        "page": None if config.no_page else f"{address}/",
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
