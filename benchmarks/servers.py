"""The servers that are measured: ours, stock vLLM on the same checkpoint, or any that already runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vram import MemorySampler, own_account

HERE = Path(__file__).parent
ROOT = HERE.parent
PLUGINS = HERE / "vllm_plugins"
_CHAT_TEMPLATE = ROOT / "server" / "phi_vision" / "model" / "chat_template.jinja"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class ServerError(Exception):
    """A server that does not start or does not answer; the message says which and why."""


@dataclass
class Server:
    """One server under test."""

    label: str  # ours, vllm or other
    what: str  # what it is, in a sentence
    url: str  # without /v1
    process: subprocess.Popen[bytes] | None = None
    log_path: Path | None = None
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
        except (OSError, KeyError, ValueError):
            return None

    def describe(self) -> dict[str, Any]:
        """For result.json, taken at the end: memory is sampled until then."""
        log = self.log_path.read_text(errors="replace") if self.log_path else ""
        return {
            "what": self.what,
            "model": self.models[0]["id"],
            "checkpoint": Path(self.checkpoint).name if self.checkpoint else None,
            "max_model_len": self.max_model_len,
            "start_s": self.start_s,
            "account": own_account(log, fetch_text(f"{self.url}/metrics"), self.checkpoint),
            "memory": self.sampler.stop() if self.sampler else None,
        }

    def stop(self) -> None:
        """End a server that was started here."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def python_path(*more: Path) -> str:
    """For a process in the server's environment: this checkout's packages before what is set already."""
    own = map(str, (ROOT / "server", HERE, *more))
    return os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))


def fetch_text(url: str, timeout_s: float = 10) -> str:
    """A page, or nothing where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def fetch_json(url: str, body: dict[str, Any] | None = None, timeout_s: float = 600) -> Any:
    """GET, or POST with a body.

    Raises:
        OSError: no server, or an answer other than 200.
    """
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


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
    port = _free_port()
    command = [python, "-m", "phi_vision", "serve", "--port", str(port), *flags]
    what = "phi-vision serve " + " ".join(flags)
    return _start("ours", what.strip(), command, port, log_path, "benchmark_stock_route", gpu=gpu)


def start_stock_vllm(python: str, log_path: Path, ours: Server, flags: Sequence[str], *, gpu: bool) -> Server:
    """vLLM alone on the checkpoint of `ours`, with its own image path and its own chat route.

    A checkpoint with the published remote code is served with it. Any other needs `stock_model`: vLLM's
    own classes, and a native stand-in for the image processor of the remote code.
    """
    checkpoint = str(ours.checkpoint)
    folder = Path(checkpoint)
    remote = not folder.is_dir() or (folder / "processing_phi3_v.py").exists()
    port = _free_port()
    command = [
        *(python, "-m", "vllm.entrypoints.launchers.api_server.entry"),
        *("--model", checkpoint, "--served-model-name", "stock", "--port", str(port), "--host", "127.0.0.1"),
        *("--max-model-len", str(ours.max_model_len)),
        *("--mm-processor-kwargs", json.dumps({"num_crops": 16})),
        "--interleave-mm-strings",
        *("--chat-template", str(_CHAT_TEMPLATE), "--chat-template-content-format", "string"),
        "--disable-sliding-window",
        *(("--trust-remote-code",) if remote else ()),
        *(() if gpu else ("--enforce-eager",)),
        *flags,
    ]
    what = "vLLM with the checkpoint's remote code"
    if not remote:
        what = (
            "vLLM's own Phi3VForCausalLM and processor classes, without our image path and tasks; a native "
            "float32 processor stands in for the remote code that this checkpoint does not have"
        )
    plugin = "" if remote else "benchmark_stock_model"
    return _start("vllm", what, command, port, log_path, plugin, gpu=gpu)


def _start(
    label: str, what: str, command: list[str], port: int, log_path: Path, plugin: str, *, gpu: bool
) -> Server:
    path = {"PYTHONPATH": python_path(PLUGINS)}
    environment = {**os.environ, **path, "VLLM_PLUGINS": plugin, "VLLM_NO_USAGE_STATS": "1"}
    if label == "vllm" and not gpu:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; ours plans its own
    start = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    server = Server(label, what, f"http://127.0.0.1:{port}", process, log_path)
    try:
        server.sampler = MemorySampler(process.pid, gpu=gpu)
        server.sampler.start()
        _wait_until_ready(server)
        server.start_s = time.monotonic() - start
        server.sampler.mark_steady()
        _read_models(server)
    except BaseException:
        server.stop()
        raise
    return server


def _wait_until_ready(server: Server, timeout_s: float = 1800) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert server.process is not None and server.log_path is not None
        if server.process.poll() is not None:
            tail = server.log_path.read_text(errors="replace")[-3000:]
            raise ServerError(f"{server.label} ended with {server.process.returncode}:\n{tail}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise ServerError(f"{server.label} was not ready in {timeout_s:.0f} s")


def _read_models(server: Server) -> None:
    try:
        server.models = fetch_json(f"{server.url}/v1/models", timeout_s=10)["data"]
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"{server.url} does not answer /v1/models: {error}") from error
    if not server.models:
        raise ServerError(f"{server.url} serves no model")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
