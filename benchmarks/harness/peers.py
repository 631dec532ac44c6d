"""The programs that can be measured beside ours, as data: `make bench ARGS="--against NAME,..."`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_vision.client.process import ServerProcess
from phi_vision.spec import PHI_3_5_VISION

from benchmarks.harness.servers import Server, ServerError, environment, free_port, wait_for


@dataclass(frozen=True)
class Setting:
    """What every one of them is started with."""

    python: str  # of the server's environment
    peers_python: str  # of the environment of those that do not mix with it
    checkpoint: str  # a folder or a hub id
    max_model_len: int | None  # tokens
    gpu: bool
    num_crops: int = PHI_3_5_VISION.num_crops  # of a picture
    flags: Sequence[str] = ()  # vLLM's


@dataclass(frozen=True)
class Peer:
    """A program that serves the same model."""

    what: str
    launch: Callable[[Setting, Path], ServerProcess]  # the path: of its log


def parse_names(text: str) -> list[str]:
    """What `--against` says: names of `PEERS`, and one address at most.

    Raises:
        ArgumentTypeError: something else.
    """
    names = text.split(",")
    urls = [name for name in names if "://" in name]
    if unknown := set(names) - set(PEERS) - set(urls):
        known = ", ".join(PEERS)
        raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)[0]!r}; of: {known}, or http://...")
    if len(urls) > 1 or len(names) > len(set(names)):
        raise argparse.ArgumentTypeError("each once, and one address at most")
    return names


def start_peer(name: str, setting: Setting, log_path: Path) -> Server:
    """Start one of `PEERS` and return once it answers.

    Raises:
        ServerError: it does not start.
    """
    peer = PEERS[name]
    return wait_for(name, peer.what, peer.launch(setting, log_path), gpu=setting.gpu)


def launch_stock_vllm(
    setting: Setting, log_path: Path, *, plugins: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> ServerProcess:
    """vLLM alone on a checkpoint, not yet ready.

    A checkpoint with the published remote code is served with it. Any other needs `stock_model`: vLLM's
    own classes, and a native stand-in for the image processor of the remote code.
    """
    remote = _has_remote_code(setting.checkpoint)
    port = free_port()
    command = [
        *(setting.python, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", setting.checkpoint),
        *("--served-model-name", "stock", "--port", str(port), "--host", "127.0.0.1"),
        *("--mm-processor-kwargs", json.dumps({"num_crops": setting.num_crops})),
        "--interleave-mm-strings",
        *("--chat-template", str(PHI_3_5_VISION.chat_template), "--chat-template-content-format", "string"),
        "--disable-sliding-window",
        *(("--max-model-len", str(setting.max_model_len)) if setting.max_model_len else ()),
        *(("--trust-remote-code",) if remote else ()),
        *(() if setting.gpu else ("--enforce-eager",)),
        *setting.flags,
    ]
    variables = environment([*plugins, *([] if remote else ["benchmark_stock_model"])])
    if not setting.gpu:  # in GiB; ours plans it
        variables["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")
    return ServerProcess(command, log_path, env={**variables, **(env or {})}, port=port, ready_path="/health")


def _launch_mistralrs(setting: Setting, log_path: Path) -> ServerProcess:
    """It has no option for crops: the checkpoint must say what the others are told."""
    path = Path(setting.checkpoint, "preprocessor_config.json")
    try:
        num_crops = json.loads(path.read_text())["num_crops"]
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"mistralrs: no num_crops in {path}: {error}") from error
    if num_crops != setting.num_crops:
        raise ServerError(f"mistralrs takes num_crops from {path}, which says {num_crops}: add --num-crops")
    return _launch_front_end("mistralrs_server", setting.peers_python, setting, log_path)


def _launch_transformers(setting: Setting, log_path: Path) -> ServerProcess:
    crops = ("--num-crops", str(setting.num_crops))
    return _launch_front_end("transformers_server", setting.python, setting, log_path, *crops)


def _launch_front_end(
    module: str, python: str, setting: Setting, log_path: Path, *more: str
) -> ServerProcess:
    """A module of `benchmarks.peers`, which puts a route in front of a Python API."""
    port = free_port()
    command = [python, "-m", f"benchmarks.peers.{module}", "--model", setting.checkpoint, "--port", str(port)]
    command += more
    return ServerProcess(command, log_path, env=environment([]), port=port, ready_path="/health")


def _has_remote_code(checkpoint: str) -> bool:
    """Whether a folder carries the published processor; what is on the hub does."""
    folder = Path(checkpoint)
    return not folder.is_dir() or (folder / "processing_phi3_v.py").exists()


PEERS: Mapping[str, Peer] = {
    "vllm": Peer(
        "vLLM's own Phi3VForCausalLM and processor classes, without our image path and tasks; where the "
        "checkpoint has no remote code, a native float32 processor stands in for it",
        launch_stock_vllm,
    ),
    "mistralrs": Peer(
        "mistral.rs, its engine from the PyPI wheel behind a small HTTP front end of the benchmark's",
        _launch_mistralrs,
    ),
    "transformers": Peer(
        "Transformers in eager mode, one request at a time: its CLIP and Phi-3 classes put together by the "
        "benchmark, behind a small HTTP front end of the benchmark's",
        _launch_transformers,
    ),
}
