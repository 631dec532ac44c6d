"""The report's servers: all begin at once, and each gets the GPU when its turn comes (`turn`)."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx
from phi_vision.planning.checkpoint import DEMO_FOLDER

from benchmarks.harness.peers import Setting, launch_stock_vllm
from benchmarks.harness.servers import Server, fetch_json, launch_ours, wait_for
from benchmarks.studies.cpu_memory import full_size_checkpoint
from tests.support.random_weights import write_random_checkpoint

Model = Literal["full size", "random demo"]

_STOP_WITHIN_S = 20
_EAGER = "--enforce-eager"
# Lines of a log that say what was chosen and how long it took.
_TELLING = re.compile(
    r"Using \S+ (attention )?backend|for vit attention|Selected \S+ for|Model loading took|Available KV cache"
    r"|Actual usage is|CUDA graph pool|Graph capturing finished|torch\.compile took|init engine|memory plan:"
    r"|Model Runner|Asynchronous scheduling|GPU KV cache size|WARNING|ERROR"
)


@dataclass(frozen=True)
class Launch:
    """A server that a step asks: flags of `phi-vision serve`, or stock vLLM with vLLM's flags."""

    label: str
    flags: tuple[str, ...] = ()
    model: Model = "full size"
    stock: bool = False
    env: tuple[tuple[str, str], ...] = ()

    @property
    def is_eager(self) -> bool:
        """Whether it runs without torch.compile and CUDA graphs."""
        return _EAGER in self.flags

    @property
    def as_eager(self) -> Launch:
        """The same without torch.compile and CUDA graphs."""
        if self.is_eager:
            return self
        return replace(self, label=f"{self.label}, eager", flags=(*self.flags, _EAGER))


def checkpoint(model: Model, folder: Path) -> Path:
    """A model without trained weights, made in `folder` when it is first asked for."""
    path = folder / file_name(model)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            write = full_size_checkpoint if model == "full size" else write_random_checkpoint
            write(Path(unfinished)).rename(path)
    return path


class WaitingServer:
    """A server that may import what it needs; `start` lets it have the GPU.

    Args:
        launch: what to run. Without a GPU the demo stands in for the model of full size.
        log_path: where it writes.
        scratch: a folder for checkpoints and turns.
        gpu: whether it runs on one.
    """

    def __init__(self, launch: Launch, log_path: Path, scratch: Path, *, gpu: bool) -> None:
        self.launch = launch
        self._gpu = gpu
        self._turn = scratch / f"{file_name(launch.label)}.turn"
        demo_stands_in = launch.model == "full size" and not gpu
        model = str(DEMO_FOLDER if demo_stands_in else checkpoint(launch.model, scratch))
        dummy = ("--load-format", "dummy") if launch.model == "full size" and gpu else ()
        flags = (*dummy, *launch.flags)
        plugins = ["benchmark_turn"]
        env = {
            "PHI_VISION_BENCHMARK_TURN": str(self._turn),  # `turn.VARIABLE`
            "VLLM_ENGINE_READY_TIMEOUT_S": "7200",  # turns may be late
            **dict(launch.env),
        }
        if launch.stock:
            setting = Setting(sys.executable, sys.executable, model, None, gpu, flags=flags)
            self.process = launch_stock_vllm(setting, log_path, plugins=plugins, env=env)
        else:
            flags = ("--model", model, *flags)
            self.process = launch_ours(sys.executable, log_path, flags, plugins=plugins, env=env)

    def start(self, deadline: float) -> Server:
        """Give it the GPU and wait until it answers.

        Args:
            deadline: of `time.monotonic`.

        Raises:
            ServerError: it ended, or was not ready by then; it is stopped.
        """
        self._turn.touch()
        left_s = deadline - time.monotonic()
        server = wait_for(self.launch.label, "", self.process, gpu=self._gpu, timeout_s=left_s)
        print(f"  {server.label}: ready after {server.start_s:.1f} s", flush=True)
        return server

    def describe(self, server: Server) -> dict[str, Any]:
        """What it was started with, its plan, what it says of its memory, and NVML's figures, in bytes."""
        told: dict[str, Any] = {}
        with contextlib.suppress(httpx.HTTPError):  # stock vLLM has no such route
            told = fetch_json(f"{server.url}/v1/plan")
        return server.describe() | {
            "what": " ".join(self.launch.flags),
            "compiled": self._gpu and not self.launch.is_eager,
            "weights": self.launch.model,
            "plan": told.get("plan"),
            "plan_error_percent": told.get("error_percent"),
            "actual": told.get("actual"),
            "said": _telling_lines(self.process.log),
        }

    def stop(self) -> dict[str, Any]:
        """End it, at once where it waits for its turn: `stop_s` and `exit_code`, -9 where it was killed."""
        began = time.monotonic()
        code = self.process.stop(_STOP_WITHIN_S if self._turn.exists() else 1)
        return {"stop_s": round(time.monotonic() - began, 1), "exit_code": code}


def file_name(name: str) -> str:
    """The name of a step or server as it can stand in a path."""
    return name.replace(", ", "-").replace(" ", "-")


def _telling_lines(log: str) -> list[str]:
    """Lines that say what was chosen, without what vLLM's logger puts before them, each once."""
    lines = (
        re.sub(r"^.*?\[[\w./]+:\d+\] ", "", line)[:400] for line in log.splitlines() if _TELLING.search(line)
    )
    return list(dict.fromkeys(lines))[:40]
