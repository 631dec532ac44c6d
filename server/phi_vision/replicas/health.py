"""Whether each server takes requests, hangs, and answers as the others do."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import aiohttp

from phi_vision.client.readiness import STARTING, in_words
from phi_vision.replicas.members import READY, Member

_INTERVAL_S = 0.5
_PATIENCE_S = 3.0  # for one answer; after that no request goes there until it answers again


class Watched(Protocol):
    """A member's process, as it is told what has been seen."""

    member: Member

    def hung(self) -> None:
        """It says nothing any more."""

    def differs(self, how: str) -> None:
        """It would not answer as the others do."""


class Health:
    """Keeps `state` and `silent_since` of members up to date.

    Args:
        http: to ask with.
        hang_timeout_s: silence that counts as a hang. A server that was not ready yet never hangs.
    """

    def __init__(self, http: aiohttp.ClientSession, hang_timeout_s: float) -> None:
        self._http = http
        self._hang_timeout_s = hang_timeout_s
        self._nature: dict[str, Any] | None = None  # of the first server that was ready

    async def watch(self, server: Watched) -> None:
        """One of them, for ever."""
        loop = asyncio.get_running_loop()
        member = server.member
        admitted: str | None = None  # its address then
        while True:
            url = member.url
            try:
                state = STARTING if url is None else await self._state(url)
                if state == READY and url is not None and url != admitted:
                    if how := await self._difference(url):
                        server.differs(how)
                        state = how
                    else:
                        admitted = url
            except TimeoutError:
                if url == member.url:
                    member.silent_since = member.silent_since or loop.time() - _PATIENCE_S
                    if url == admitted and loop.time() - member.silent_since >= self._hang_timeout_s:
                        admitted = None
                        server.hung()
            else:
                if url == member.url:  # it may have ended meanwhile
                    member.silent_since = None
                    member.state = state
                    member.was_ready |= member.ready
            await asyncio.sleep(_INTERVAL_S)

    async def _state(self, url: str) -> str:
        """In a few words.

        Raises:
            TimeoutError: it says nothing.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S), self._http.get(f"{url}/readyz") as answer:
                return READY if answer.status == 200 else in_words(await answer.json(content_type=None))
        except (aiohttp.ClientError, ValueError):
            return STARTING  # or ending: its process tells

    async def _difference(self, url: str) -> str | None:
        """How the server differs from the first in what its answers depend on.

        Each plans for the memory that is free on its own GPU, and may arrive at other weights or contexts.
        """
        async with asyncio.timeout(_PATIENCE_S):
            models, plan = [await self._json(f"{url}/v1/{what}") for what in ("models", "plan")]
        nature = {
            "model": [(model["id"], model["root"]) for model in models["data"]],
            "weights": (plan["plan"] or {}).get("weights"),
            "KV cache": plan["actual"]["kv_dtype"],
            "context": plan["actual"]["max_model_len"],
        }
        self._nature = first = self._nature or nature
        different = [
            f"{what} {nature[what]}, not {first[what]}" for what in nature if nature[what] != first[what]
        ]
        return "; ".join(different) or None

    async def _json(self, url: str) -> Any:
        async with self._http.get(url) as answer:
            return await answer.json()
