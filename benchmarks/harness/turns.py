"""Which servers are held at once: all, or one after the other where the GPU cannot hold them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness.peers import PEERS, Setting, start_peer
from benchmarks.harness.servers import Server, attach, start_ours

_LEAST_BYTES = 20_000_000_000  # of a GPU, for each server that it holds; vLLM's share it
_SHARED = 0.9  # of the GPU's memory


def turns(
    options: argparse.Namespace,
    server_flags: Sequence[str],
    gpu_bytes: int | None,
    stack: ExitStack,
    say: Callable[[str], None],
) -> Iterator[list[Server]]:
    """Start what `options` asks for; yields the servers that run at once, ours first.

    Args:
        options: of `run.parser`.
        server_flags: for ours and stock vLLM.
        gpu_bytes: memory of the GPU; None where they run on a CPU.
        stack: stops the servers at its end.
        say: tells how far it is.
    """
    names = [name for name in options.against if name in PEERS]
    urls = [name for name in options.against if name not in PEERS]
    gpu, count = gpu_bytes is not None, 1 + len(names)
    all_fit = gpu_bytes is None or gpu_bytes >= count * _LEAST_BYTES
    share = ["--gpu-memory-utilization", f"{_SHARED / count:.2f}"] if gpu and all_fit and names else []
    flags = [*share, *server_flags]
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if options.url:
        ours = attach(options.url, "ours")
    else:
        say("starting phi-vision serve")
        asked = ["--model", options.model, "--max-model-len", str(options.max_model_len)]
        asked += ["--num-crops", str(options.num_crops)]
        ours = start_ours(options.python, logs / "ours.log", [*asked, *flags], gpu=gpu)
        stack.callback(ours.stop)
        say(f"ready after {ours.start_s:.0f} s")
    held = [ours, *(attach(url, "other") for url in urls)]
    if not all_fit:
        yield held
        held = []
        ours.stop()
    setting = Setting(
        options.python,
        options.peers_python,
        str(ours.checkpoint),
        ours.max_model_len,
        gpu,
        options.num_crops,
        flags,
    )
    for name in names:
        say(f"starting {name}")
        peer = start_peer(name, setting, logs / f"{name}.log")
        stack.callback(peer.stop)
        say(f"ready after {peer.start_s:.0f} s")
        if all_fit:
            held.append(peer)
        else:
            yield [peer]
            peer.stop()
    if held:
        yield held
