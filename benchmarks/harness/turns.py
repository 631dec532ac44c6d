"""Which servers are held at once: all, or ours and then stock vLLM where the GPU cannot hold both."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness.servers import Server, attach, start_ours, start_stock_vllm

_BOTH_FIT_BYTES = 40_000_000_000  # of a GPU; two servers get 0.45 of it each


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
        server_flags: for both servers.
        gpu_bytes: memory of the GPU; None where they run on a CPU.
        stack: stops the servers at its end.
        say: tells how far it is.
    """
    gpu, both_fit = gpu_bytes is not None, gpu_bytes is None or gpu_bytes >= _BOTH_FIT_BYTES
    halves = ["--gpu-memory-utilization", "0.45"] if gpu and both_fit and options.against == "vllm" else []
    flags = [*halves, *server_flags]
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if options.url:
        ours = attach(options.url, "ours")
    else:
        say("starting phi-vision serve")
        asked = ["--model", options.model, "--max-model-len", str(options.max_model_len)]
        ours = start_ours(options.python, logs / "ours.log", [*asked, *flags], gpu=gpu)
        stack.callback(ours.stop)
        say(f"ready after {ours.start_s:.0f} s")
    if options.against != "vllm":
        yield [ours, attach(options.against, "other")] if options.against else [ours]
        return
    if not both_fit:
        yield [ours]
        ours.stop()
    say("starting stock vLLM")
    stock = start_stock_vllm(options.python, logs / "vllm.log", ours, flags, gpu=gpu)
    stack.callback(stock.stop)
    say(f"ready after {stock.start_s:.0f} s")
    yield [ours, stock] if both_fit else [stock]
