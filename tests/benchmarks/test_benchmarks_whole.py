"""`make bench` from end to end, with AIPerf, against a server whose answers are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import load
from tests.support import fake_server
from tests.support.plots import cut_off

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
TTFT_MS, ITL_MS, TOKENS = 200, 20, 11
E2E_MS = TTFT_MS + ITL_MS * (TOKENS - 1)


@pytest.fixture(scope="module")
def bench_python() -> str:
    """AIPerf's environment, made as `make bench` makes it."""
    subprocess.run(["make", "bench-venv"], cwd=ROOT, check=True)
    return str(ROOT / ".bench-venv" / "bin" / "python")


@dataclass(frozen=True)
class Fake:
    """A running `fake_server.py` and what it prints."""

    url: str
    process: subprocess.Popen[str]

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        while (printed := self.process.stdout.readline().strip()) != line:
            assert printed, "it ended"


@contextmanager
def running_fake(*flags: str) -> Iterator[Fake]:
    command = [sys.executable, fake_server.__file__, *flags]
    command += ["--ttft-s", str(TTFT_MS / 1000), "--itl-s", str(ITL_MS / 1000)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Fake(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.wait()


def bench(python: str, url: str, out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [
        python,
        "-m",
        "benchmarks.harness.run",
        "--url",
        url,
        "--out",
        str(out),
        "--python",
        sys.executable,
    ]
    command += ["--workloads", "vqa", "--answer-tokens", str(TOKENS)]
    command += ["--skip", "image-path,route-overhead", *flags]
    env = os.environ | {"PYTHONPATH": str(ROOT / "server")}
    # As from a terminal. A shell starts its background jobs with Ctrl-C ignored, which is inherited.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        preexec_fn=listen,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def folder_of(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def result_of(out: Path) -> dict[str, Any]:
    return json.loads((folder_of(out) / "result.json").read_text())


def test_known_latencies_and_failures_are_reported(bench_python: str, tmp_path: Path) -> None:
    """Latencies are AIPerf's own, and none is below what the server takes: a busy machine only adds to it."""
    with running_fake("--fail-every", "4") as fake:
        process = bench(
            bench_python, fake.url, tmp_path, "--quick", "--concurrency", "1,4", "--requests", "12"
        )
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    runs = {run["concurrency"]: run for run in result_of(tmp_path)["runs"]}
    assert runs.keys() == {1, 4}
    for concurrency, run in runs.items():
        assert (run["succeeded"], run["failed"], run["error_rate"]) == (9, 3, 0.25)
        file = folder_of(tmp_path) / run["files"] / "profile_export_aiperf.json"
        theirs = json.loads(file.read_text())
        for ours, metric in load.LATENCIES.items():
            assert run[ours]["p50"] == theirs[metric]["p50"] and run[ours]["count"] >= 9
        assert run["ttft_ms"]["p50"] >= TTFT_MS and run["e2e_ms"]["p50"] >= E2E_MS
        assert (run["prompt_tokens"], run["output_tokens"]) == (fake_server.PROMPT_TOKENS, TOKENS)
        assert run["kv_usage_peak"] == 0.25
        # Failures take no time: with them counted, one at a time, this would be a third more.
        assert 0 < run["requests_per_s"] <= concurrency * 1000 / E2E_MS
        assert run["output_tokens_per_s"] == pytest.approx(run["requests_per_s"] * TOKENS, rel=1e-3)
    last = json.loads(stdout.strip().splitlines()[-1])
    assert [cell["failed"] for cell in last["cells"]] == [3, 3]
    page = Path(last["report"]).read_text()
    assert page.count("<svg") == 2 and "<script" not in page and 'src="' not in page and "<link" not in page
    assert cut_off(page) == []


def test_a_server_that_only_fails_gives_no_throughput(bench_python: str, tmp_path: Path) -> None:
    with running_fake("--fail-every", "1") as fake:
        process = bench(bench_python, fake.url, tmp_path, "--quick", "--concurrency", "1", "--requests", "3")
        process.communicate()
    assert process.returncode == 1
    for run in result_of(tmp_path)["runs"]:
        assert (run["succeeded"], run["failed"]) == (0, 3)
        assert run["requests_per_s"] == run["output_tokens_per_s"] == 0 and run["ttft_ms"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_kill_keeps_what_was_measured(
    bench_python: str, tmp_path: Path, number: signal.Signals
) -> None:
    first = 2 + 2  # requests of the first cell: to warm up, and measured
    with running_fake("--answers", str(first)) as fake:
        process = bench(bench_python, fake.url, tmp_path, "--concurrency", "2,4,8", "--requests", "2")
        fake.wait_for("held")  # the second cell is at work and cannot end
        process.send_signal(number)
        stdout, _ = process.communicate()
    result = result_of(tmp_path)
    assert process.returncode == 0 and result["interrupted"]
    assert [run["concurrency"] for run in result["runs"]] == [2]
    assert Path(json.loads(stdout.strip().splitlines()[-1])["report"]).exists()
