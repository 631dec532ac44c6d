"""The servers that a command asks: those named, one on the default port, or one started for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from phi_vision.cli.terminal import print_passing, print_status
from phi_vision.client.chat import has_our_tasks
from phi_vision.client.exchange import Endpoint
from phi_vision.client.process import ServerProcess, local_process
from phi_vision.client.readiness import start_of
from phi_vision.client.text import one_line
from phi_vision.config import ServeConfig

_PROBE_TIMEOUT_S = 1.0
_PROBE_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Found:
    """Servers to ask.

    Args:
        endpoints: at least one.
        own: that was started for this command.
    """

    endpoints: Sequence[Endpoint]
    own: ServerProcess | None = None


@contextmanager
def find_servers(base_urls: Sequence[str], device: str) -> Iterator[Found]:
    """The servers named, one on the default port, or one started for this.

    Only the first get the user's key: anybody may listen on the default port.

    Args:
        base_urls: as `--base-url`; none: $OPENAI_BASE_URL counts.
        device: as `--device`, for a server that is started.

    Raises:
        UsageError: a server on the default port wants a key, or none could be started.
    """
    if named := named_servers(base_urls):
        if len(named) == 1:  # of several, one that starts is asked later
            _await_start(named[0])
        yield Found(named)
        return
    default = Endpoint(f"http://{ServeConfig.host}:{ServeConfig.port}/v1")
    _await_start(default)  # a second engine would want the same memory
    # One that asks for a key ends the command: better than a second model in the same memory.
    if has_our_tasks(default, _PROBE_TIMEOUT_S):
        print_status(f"using the server at {default.base_url}")
        yield Found([default])
        return
    started_s = time.monotonic()
    print_status("no server found; starting an engine")

    says_download = False

    def on_wait(waited_s: float, state: str) -> None:
        nonlocal says_download
        if state.startswith("downloading") and not says_download:
            says_download = True
            print_status("the weights are downloaded first")
        print_passing(f"{state}, {waited_s:.0f} s")

    with local_process(device, on_wait=on_wait) as (own, endpoint):
        print_status(f"engine ready after {time.monotonic() - started_s:.0f} s")
        yield Found([endpoint], own)


def _await_start(endpoint: Endpoint) -> None:
    """Return once this server is not starting, whatever else it does."""
    if start_of(endpoint, _PROBE_TIMEOUT_S) is None:
        return
    print_status(f"waiting for the server at {one_line(endpoint.base_url)}, which is starting")
    while (state := start_of(endpoint, _PROBE_TIMEOUT_S)) is not None:
        print_passing(state)
        time.sleep(_PROBE_INTERVAL_S)


def named_servers(base_urls: Sequence[str]) -> list[Endpoint]:
    """The servers of `--base-url` or, without, of $OPENAI_BASE_URL; they get the user's key."""
    urls = base_urls or [url for url in [os.environ.get("OPENAI_BASE_URL")] if url]
    return [Endpoint(url, os.environ.get("OPENAI_API_KEY"), named=True) for url in urls]
