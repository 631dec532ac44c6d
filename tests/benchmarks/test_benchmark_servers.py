"""Which servers the benchmark holds at once, and the environment that it starts them in."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.harness import servers, turns

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


@pytest.mark.parametrize(
    ("gpu_bytes", "order", "flags"),
    [
        (
            24 * GIB,
            ["start ours", "measure ours", "stop ours", "start vllm", "measure vllm", "stop vllm"],
            [],
        ),
        (
            80 * GIB,
            ["start ours", "start vllm", "measure ours vllm", "stop vllm", "stop ours"],
            ["--gpu-memory-utilization", "0.45"],
        ),
        (None, ["start ours", "start vllm", "measure ours vllm", "stop vllm", "stop ours"], []),
    ],
)
def test_a_small_gpu_holds_one_server_at_a_time(
    gpu_bytes: int | None, order: list[str], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    given: list[list[str]] = []

    class Scripted(servers.Server):
        def stop(self) -> None:
            if f"stop {self.label}" not in seen:
                seen.append(f"stop {self.label}")

    def start(label: str, flags: list[str]) -> servers.Server:
        seen.append(f"start {label}")
        given.append(flags)
        return Scripted(label, "", "http://127.0.0.1:1", start_s=1, models=[{"id": "m", "root": "no-folder"}])

    monkeypatch.setattr(turns, "start_ours", lambda _, __, flags, gpu: start("ours", flags[6:]))
    monkeypatch.setattr(turns, "start_peer", lambda name, setting, _: start(name, list(setting.flags)))
    options = argparse.Namespace(
        url=None,
        model="demo",
        max_model_len=8192,
        num_crops=16,
        against=["vllm"],
        python=sys.executable,
        peers_python=sys.executable,
    )
    with ExitStack() as stack:
        for at_once in turns.turns(options, [], gpu_bytes, stack, lambda _: None):
            seen.append(" ".join(["measure", *(server.label for server in at_once)]))
    assert seen == order
    assert given == [flags, flags]


def test_what_is_on_the_path_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    assert servers.python_path().split(os.pathsep)[-1] == "/somewhere/else"
    monkeypatch.delenv("PYTHONPATH")
    assert servers.python_path().split(os.pathsep) == [str(ROOT / "server"), str(ROOT)]


@pytest.mark.full
def test_the_stock_model_stays_out_of_our_server() -> None:
    """It is installed where the benchmark's folders are on the path; the launcher loads what is installed."""
    cases = {
        "phi_vision_model,benchmark_stock_model": "phi_vision.model.phi3v",
        "benchmark_stock_model,phi_vision_model": "phi_vision.model.phi3v",
        "benchmark_stock_model": "stock_model",
    }
    # vLLM is imported once; each child loads other plugins.
    program = (
        "import os, sys; from vllm import ModelRegistry; from vllm.plugins import load_general_plugins\n"
        "for plugins in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        os.environ['VLLM_PLUGINS'] = plugins; load_general_plugins()\n"
        "        print('found', ModelRegistry.models['Phi3VForCausalLM'].module_name, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *cases],
        env={**os.environ, "PYTHONPATH": servers.python_path(servers.PLUGINS)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("found ")]
    assert found == list(cases.values()), done.stderr[-3000:]
