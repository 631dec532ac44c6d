"""Which server is asked: one by its address, the one at hand, or one that is started with given flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from phi_vision.cli.servers import Found, find_servers
from phi_vision.cli.terminal import print_passing, print_status
from phi_vision.client.process import local_process
from phi_vision.errors import UsageError


@dataclass(frozen=True)
class Asked:
    """A server as the user named it.

    Args:
        base_url: a running one; None: as for `predict`, or with flags one that is started.
        flags: of `phi-vision serve`.
        model: its name there; None: by task presets, or its first.
    """

    base_url: str | None = None
    flags: Sequence[str] = ()
    model: str | None = None

    def __post_init__(self) -> None:
        if self.base_url and self.flags:
            raise UsageError("flags behind -- are for a server that is started: leave --base-url out")

    @property
    def name(self) -> str:
        """For people, and to tell whether a run goes on with the same."""
        if self.base_url:
            return self.base_url + (f", {self.model}" if self.model else "")
        return shlex.join(["phi-vision", "serve", *self.flags]) if self.flags else "the server at hand"

    @contextmanager
    def running(self) -> Iterator[Found]:
        """The server, ready to answer."""
        if self.base_url or not self.flags:
            with find_servers([self.base_url] if self.base_url else [], "auto") as found:
                yield found
            return
        print_status(f"starting {self.name}")

        def on_wait(waited_s: float, state: str) -> None:
            print_passing(f"{state}, {waited_s:.0f} s")

        with local_process("auto", *self.flags, on_wait=on_wait) as (own, endpoint):
            yield Found([endpoint], own)
