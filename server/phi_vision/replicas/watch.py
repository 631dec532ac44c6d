"""What each server says of itself: whether it is ready, hangs, and answers as the others do."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import Any

import aiohttp

from phi_vision.client.readiness import STARTING, in_words
from phi_vision.replicas.process import KeptProcess, Tell

READY = "ready"

_INTERVAL_S = 0.5
_PATIENCE_S = 3.0  # for one answer


@dataclass
class Agreement:
    """What answers depend on, as the first server has it that was ready."""

    first: dict[str, Any] | None = None

    def difference(self, nature: dict[str, Any]) -> str:
        """How another server's is different; empty where it is not."""
        self.first = first = self.first or nature
        different = [what for what in nature if nature[what] != first[what]]
        return "; ".join(f"{what} {nature[what]}, not {first[what]}" for what in different)


class Watch:
    """One server.

    Args:
        url: of it, without a path.
        process: of it.
        agreement: of all servers.
        tell: the user.
        hang_timeout_s: silence that counts as a hang. A server that was not ready yet never hangs.
    """

    def __init__(
        self, url: str, process: KeptProcess, agreement: Agreement, tell: Tell, hang_timeout_s: float
    ) -> None:
        self.state = STARTING
        self._url = url
        self._process = process
        self._agreement = agreement
        self._tell = tell
        self._hang_timeout_s = hang_timeout_s

    async def keep(self) -> None:
        """Look at it again and again, for ever."""
        loop = asyncio.get_running_loop()
        ready_life = 0  # that of the process in which it was ready
        heard_s = loop.time()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_PATIENCE_S)) as http:
            while True:
                life = self._process.life
                try:
                    self.state = await self._ask(http)
                    heard_s = loop.time()
                    if self.state == READY and ready_life != life:
                        ready_life = life
                        await self._welcome(http)
                except TimeoutError:
                    if ready_life == life and loop.time() - heard_s >= self._hang_timeout_s:
                        ready_life = 0
                        self._tell.say(f"{self._process.name} hangs; it is killed")
                        self._process.kill()
                except (aiohttp.ClientError, ValueError, LookupError):
                    heard_s = loop.time()  # it is starting or ending: its process tells
                    self.state = STARTING
                await asyncio.sleep(_INTERVAL_S)

    async def _ask(self, http: aiohttp.ClientSession) -> str:
        """Its state in a few words."""
        async with http.get(f"{self._url}/readyz") as answer:
            return READY if answer.status == 200 else in_words(await answer.json(content_type=None))

    async def _welcome(self, http: aiohttp.ClientSession) -> None:
        """It is ready for the first time. If it is not like the first one, it is stopped."""
        if how := self._agreement.difference(await _nature(self._url, http)):
            self._process.fault = f"it is not like the others ({how}): name a --profile and a --max-model-len"
            self._tell.say(f"{self._process.name} is not like the others: {how}; it is stopped")
            self._process.send(signal.SIGTERM)
            return
        self._process.has_worked = True
        self._tell.say(f"{self._process.name} is ready ({self._url})")


async def _nature(url: str, http: aiohttp.ClientSession) -> dict[str, Any]:
    """What answers depend on. Each server plans for the memory that is free on its own GPU."""
    found = {}
    for what in ("models", "plan"):
        async with http.get(f"{url}/v1/{what}") as answer:
            found[what] = await answer.json()
    plan = found["plan"]
    return {
        "model": [(model["id"], model["root"]) for model in found["models"]["data"]],
        "weights": (plan["plan"] or {}).get("weights"),
        "KV cache": plan["actual"]["kv_dtype"],
        "context": plan["actual"]["max_model_len"],
    }
