"""The server that a study asks: `phi-vision serve` of this environment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import openai
from phi_vision.client.process import ServerProcess, serve_command


@contextmanager
def running_server(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[ServerProcess]:
    """A server with these flags, ready to answer."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(serve_command("--port", "0", *flags), Path(folder, "log.txt"), env=env) as server,
    ):
        server.wait_until_ready()
        yield server


def client_of(server: ServerProcess) -> openai.OpenAI:
    """The SDK, without retries that would hide what went wrong."""
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=900)
