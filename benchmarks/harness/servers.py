"""The servers that are measured: ours, others that are started beside it, or any that already runs."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from phi_vision.client.process import START_TIMEOUT_S, ServerProcess, ServerStartError, serve_command

from benchmarks.harness.vram import MemorySampler, parse_memory_breakdown

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "benchmarks" / "vllm_plugins"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class ServerError(Exception):
    """A server that does not start or does not answer; the message says which and why."""


@dataclass
class Server:
    """One server under test."""

    label: str  # ours, a name of `peers.PEERS`, or other
    what: str  # what it is, in a sentence
    url: str  # without /v1
    process: ServerProcess | None = None  # None: it runs already
    sampler: MemorySampler | None = None
    start_s: float | None = None
    models: list[dict[str, Any]] = field(default_factory=list)

    def model_for(self, task: str) -> str:
        """The model name for a task: the one with the task's preset where the server has it."""
        base = self.models[0]["id"]
        return next((m["id"] for m in self.models if m["id"] == f"{base}:{task}"), base)

    @property
    def checkpoint(self) -> str | None:
        """The folder or hub id that vLLM says it loaded."""
        return self.models[0].get("root")

    @property
    def max_model_len(self) -> int | None:
        """The context that vLLM says it serves."""
        return self.models[0].get("max_model_len")

    def letter_tokens(self) -> list[int] | None:
        """Ids of tokens that are plain letters, where the server has vLLM's `/tokenize`.

        An answer that has no end otherwise strays into bytes that are no text, and a client sees no token
        until some are. Fixed-length runs allow only these, so that every token shows when it is made.
        """
        body = {"model": self.models[0]["id"], "prompt": _LETTERS, "add_special_tokens": False}
        try:
            return sorted(set(fetch_json(f"{self.url}/tokenize", body)["tokens"][1:]))  # the first: a space
        except (httpx.HTTPError, KeyError, ValueError):
            return None

    def describe(self) -> dict[str, Any]:
        """For result.json, taken at the end: memory is sampled until then."""
        log = self.process.log if self.process else ""
        return {
            "what": self.what,
            "model": self.models[0]["id"],
            "checkpoint": Path(self.checkpoint).name if self.checkpoint else None,
            "max_model_len": self.max_model_len,
            "start_s": self.start_s,
            "account": parse_memory_breakdown(log, fetch_text(f"{self.url}/metrics"), self.checkpoint),
            "memory": self.sampler.stop() if self.sampler else None,
        }

    def stop(self) -> None:
        """End a server that was started here."""
        if self.process is not None:
            self.process.stop()


def python_path(*more: Path) -> str:
    """For a process in the server's environment: this checkout's packages before what is set already."""
    own = map(str, (ROOT / "server", ROOT, *more))
    return os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))


def fetch_text(url: str) -> str:
    """A page, or nothing where there is none."""
    try:
        return httpx.get(url, timeout=10).raise_for_status().text
    except httpx.HTTPError:
        return ""


def fetch_json(url: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST with a body.

    Raises:
        httpx.HTTPError: no server, or an answer other than 200.
    """
    response = httpx.get(url, timeout=10) if body is None else httpx.post(url, json=body, timeout=600)
    return response.raise_for_status().json()


def attach(url: str, label: str) -> Server:
    """A server that already runs.

    Raises:
        ServerError: nothing that speaks the OpenAI API answers there.
    """
    url = url.rstrip("/").removesuffix("/v1")
    server = Server(label, f"the server at {url}", url)
    _read_models(server)
    return server


def start_ours(python: str, log_path: Path, flags: Sequence[str], *, gpu: bool) -> Server:
    """`phi-vision serve`, with vLLM's own chat route beside it for measuring ours against."""
    process = launch_ours(python, log_path, flags, plugins=["benchmark_stock_route"])
    return wait_for("ours", " ".join(["phi-vision serve", *flags]), process, gpu=gpu)


def launch_ours(
    python: str,
    log_path: Path,
    flags: Sequence[str],
    *,
    plugins: Sequence[str],
    env: Mapping[str, str] | None = None,
) -> ServerProcess:
    """The same, not yet ready, with these of the benchmark's plugins and more of the environment."""
    command = serve_command("--port", "0", *flags, python=python)
    return ServerProcess(command, log_path, env={**environment(plugins), **(env or {})})


def wait_for(
    label: str, what: str, process: ServerProcess, *, gpu: bool, timeout_s: float = START_TIMEOUT_S
) -> Server:
    """Sample memory until the server is stopped, and return once it answers.

    Raises:
        ServerError: it did not start in time; it is stopped.
    """
    start = time.monotonic()
    try:
        sampler = _start_sampler(process.process.pid, gpu=gpu)
        process.wait_until_ready(timeout_s)
        server = Server(label, what, process.url, process, sampler, start_s=time.monotonic() - start)
        if sampler is not None:
            sampler.mark_steady()
        _read_models(server)
    except ServerStartError as error:
        process.stop()
        raise ServerError(f"{label}: {error}\n{process.log[-3000:]}") from error
    except BaseException:
        process.stop()
        raise
    return server


def environment(plugins: Sequence[str]) -> dict[str, str]:
    """For a server: this checkout on the path, and of vLLM's plugins these only."""
    return {
        "PYTHONPATH": python_path(PLUGINS),
        "VLLM_PLUGINS": ",".join(plugins),
        "VLLM_NO_USAGE_STATS": "1",
    }


def _start_sampler(pid: int, *, gpu: bool) -> MemorySampler | None:
    try:
        sampler = MemorySampler(pid, gpu=gpu)
    except Exception as error:  # NVML's errors share no base with ours
        print(f"no memory figures: {error}", file=sys.stderr)
        return None
    sampler.start()
    return sampler


def _read_models(server: Server) -> None:
    try:
        server.models = fetch_json(f"{server.url}/v1/models")["data"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
        raise ServerError(f"{server.url} does not answer /v1/models: {error}") from error
    if not server.models:
        raise ServerError(f"{server.url} serves no model")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
