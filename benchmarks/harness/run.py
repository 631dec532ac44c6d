"""Measure a server from outside and write one page: `make bench ARGS="--help"`.

Runs in AIPerf's environment; the servers and whatever needs the model run in the server's (`--python`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from phi_vision.planning.gpus import rates_of
from phi_vision.spec import PHI_3_5_VISION

from benchmarks.harness import machine, report, roofline
from benchmarks.harness.peers import PEERS, parse_names
from benchmarks.harness.servers import ROOT, Server, ServerError, python_path
from benchmarks.harness.summary import summary_line
from benchmarks.harness.sweep import Load, SweepSettings, plan, ratios, run_step
from benchmarks.harness.turns import turns
from benchmarks.harness.workloads import WORKLOADS
from benchmarks.studies import route_overhead

SCHEMA = 1
_CONCURRENCY, _QUICK_CONCURRENCY = "1,2,4,8,16,32", "4"
_QUICK_TOKENS = 16
_PATHS = ("python", "peers_python", "out")  # of this machine alone
EXTRAS = ("image-path", "route-overhead")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="make bench",
        description="Latency, throughput and memory of a server, for each task and over rising concurrency.",
        epilog="Flags behind a lone `--` go to `phi-vision serve`, and to stock vLLM where it runs beside.",
    )
    target = top.add_argument_group("what is measured")
    target.add_argument("--url", help="a server that runs already; else one is started and stopped")
    target.add_argument(
        "--model", default="auto", help="for the server that is started (default: %(default)s)"
    )
    target.add_argument(
        "--max-model-len", type=int, default=8192, metavar="TOKENS", help="(default: %(default)s)"
    )
    target.add_argument(
        "--num-crops",
        type=int,
        default=PHI_3_5_VISION.num_crops,
        help="of a picture, for every server that is started (default: %(default)s)",
    )
    target.add_argument(
        "--against",
        type=parse_names,
        default=[],
        metavar="NAME|URL,...",
        help=f"run the same work on these, in alternation: {', '.join(PEERS)}, or a server that runs already "
        "(one after the other on a GPU of less than 20 GB for each)",
    )
    target.add_argument(
        "--python", default=str(ROOT / ".venv/bin/python"), help="of the server (default: %(default)s)"
    )
    target.add_argument(
        "--peers-python",
        default=str(ROOT / ".peers-venv/bin/python"),
        help="of mistralrs (default: %(default)s)",
    )
    work = top.add_argument_group("the work")
    work.add_argument(
        "--workloads", default="caption,ocr,vqa", help=f"of: {', '.join(WORKLOADS)} (default: %(default)s)"
    )
    work.add_argument(
        "--concurrency", metavar="N,...", help=f"(default: {_CONCURRENCY}; {_QUICK_CONCURRENCY} with --quick)"
    )
    work.add_argument("--request-rate", metavar="R,...", help="requests a second, in place of a concurrency")
    work.add_argument(
        "--requests", type=int, help="measured requests of a cell (default: 24, or 4 a concurrency)"
    )
    work.add_argument(
        "--warmup", type=int, metavar="N", help="uncounted requests before (default: as many as at a time)"
    )
    work.add_argument("--rounds", type=int, help="(default: 1; 3 with --against)")
    work.add_argument(
        "--answer-tokens",
        type=int,
        metavar="N",
        help=f"of every answer (default: the workload's own number; {_QUICK_TOKENS} with --quick)",
    )
    work.add_argument("--free-length", action="store_true", help="let the model end its answers")
    work.add_argument("--goodput", metavar="SLOS", help="as AIPerf takes it: 'time_to_first_token:500'")
    work.add_argument("--timeout-s", type=float, default=600, help="of one request (default: %(default)s)")
    work.add_argument("--seed", type=int, default=35, help="of the pictures (default: %(default)s)")
    work.add_argument(
        "--quick",
        action="store_true",
        help="few requests, short answers, one round, no run with repeated pictures",
    )
    top.add_argument("--skip", default="", metavar="NAME,...", help=f"leave out: {', '.join(EXTRAS)}")
    top.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        metavar="DIR",
        help="a new folder is made here (default: %(default)s)",
    )
    return top


class Benchmark:
    """One run: what was asked, what was found so far, where it goes."""

    def __init__(self, options: argparse.Namespace, server_flags: Sequence[str]) -> None:
        self.options = options
        self.server_flags = list(server_flags)
        options.concurrency = options.concurrency or (_QUICK_CONCURRENCY if options.quick else _CONCURRENCY)
        options.answer_tokens = options.answer_tokens or (_QUICK_TOKENS if options.quick else None)
        self.rounds = options.rounds or (3 if options.against and not options.quick else 1)
        self.loads = [Load(concurrency=int(c)) for c in options.concurrency.split(",")]
        if options.request_rate:
            self.loads = [Load(rate=float(rate)) for rate in options.request_rate.split(",")]
        self.workloads = options.workloads.split(",")
        here = machine.describe_machine()
        self.gpu = here["gpu"] is not None
        self.settings = SweepSettings(
            requests=options.requests,
            warmup=options.warmup,
            least_requests=6 if options.quick else 24,
            fixed_length=not options.free_length,
            answer_tokens=options.answer_tokens,
            seed=options.seed,
            goodput=options.goodput,
            timeout_s=options.timeout_s,
            gpu=self.gpu,
        )
        self.folder = _new_folder(options.out, f"{machine.label(here)}-{machine.now()[:10]}")
        self.result: dict[str, Any] = {
            "schema": SCHEMA,
            "started": machine.now(),
            "finished": None,
            "interrupted": False,
            "machine": here,
            "versions": _versions(options.python),
            "git": machine.git_state(),
            "settings": {name: value for name, value in vars(options).items() if name not in _PATHS}
            | {"server_flags": self.server_flags, "rounds": self.rounds},
            "servers": {},
            "runs": [],
            "ratios": [],
        }

    def run(self) -> None:
        """Everything, in order; what is done by the time of a Ctrl-C is kept."""
        skipped = self.options.skip.split(",")
        try:
            with ExitStack() as stack:
                gpu_bytes = self.result["machine"]["gpu_memory_bytes"]
                ours = None
                for servers in turns(self.options, self.server_flags, gpu_bytes, stack, self._say):
                    ours = ours or servers[0]
                    try:
                        self._sweep(servers)
                        if "route-overhead" not in skipped and ours in servers and ours.process is not None:
                            self._say("our chat route against vLLM's own, in one process")
                            pairs = 60 if self.options.quick else 200
                            self.result["route_overhead"] = route_overhead.measure(ours, pairs)
                    finally:
                        self.result["servers"] |= {server.label: server.describe() for server in servers}
            if "image-path" not in skipped:
                self._run_study("image_path", "image_path", "--repeats", "10")
        except KeyboardInterrupt:
            self.result["interrupted"] = True
            self._say("stopped; what was measured is kept")
        self.result["finished"] = machine.now()
        self.result["roofline"] = self._roofline()
        self.save()

    def save(self) -> None:
        """Write result.json and the page."""
        others = {run["server"] for run in self.result["runs"]} - {"ours"}
        self.result["ratios"] = [
            row for other in sorted(others) for row in ratios(self.result["runs"], other)
        ]
        (self.folder / "result.json").write_text(json.dumps(self.result, indent=1) + "\n")
        (self.folder / "report.html").write_text(report.render(self.result))

    def _sweep(self, servers: Sequence[Server]) -> None:
        steps = plan(self.workloads, self.loads, self.rounds, repeated=not self.options.quick)
        total, done, start = len(steps) * len(servers), 0, time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            for step in steps:
                for run in run_step(step, servers, self.settings, Path(scratch), self.folder):
                    self.result["runs"].append(run)
                    done += 1
                    left_s = (time.monotonic() - start) / done * (total - done)
                    self._say(f"[{done}/{total}] {step.name} {_line(run)}   {left_s:.0f} s left")
                    self.save()

    def _run_study(self, key: str, name: str, *arguments: str) -> None:
        """Run a study that needs torch; its last line is the result, a failure is told and kept."""
        self._say(name)
        module = f"benchmarks.studies.{name}"
        command = [self.options.python, "-m", module, *arguments, "--out", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=_server_environment())
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            self.result[key] = {"failure": done.stderr[-2000:]}
            self._say(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}")
            return
        self.result[key] = json.loads(lines[-1])

    def _roofline(self) -> list[dict[str, Any]] | None:
        """Ideal times beside the measured ones; only for the published sizes on a card that is known."""
        rates = rates_of(self.result["machine"]["gpu"])
        ours = self.result["servers"].get("ours", {})
        if rates is None or "demo" in str(ours.get("model")):
            return None
        return roofline.compare(rates, [run for run in self.result["runs"] if run["server"] == "ours"])

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _line(run: dict[str, Any]) -> str:
    if "failure" in run:
        return f"{run['server']}: failed: {run['failure'].strip().splitlines()[-1]}"
    ttft = f"TTFT p50 {run['ttft_ms']['p50']:.0f} ms" if run["ttft_ms"] else "no answer"
    failed = f", {run['failed']} FAILED" if run["failed"] else ""
    rates = f"{run['requests_per_s']:.2f} req/s, {run['output_tokens_per_s']:.0f} tok/s"
    return f"{run['server']}: {ttft}, {rates}{failed}"


def _new_folder(parent: Path, name: str) -> Path:
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = parent / (name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ServerError(f"no free name for {parent / name}")


def _server_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": python_path()}


def _versions(python: str) -> dict[str, str]:
    """Of the server's environment, and of AIPerf's."""
    command = [python, "-m", "benchmarks.harness.machine"]
    done = subprocess.run(command, capture_output=True, text=True, env=_server_environment())
    served = json.loads(done.stdout) if done.returncode == 0 else {}
    return served | {"aiperf": machine.installed_versions().get("aiperf", "")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the last line of stdout is one JSON object. Exit code 1: no cell gave figures."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    top = parser()
    options = top.parse_args(arguments[:split])
    if unknown := set(options.workloads.split(",")) - set(WORKLOADS):
        top.error(f"unknown workload {sorted(unknown)[0]!r}; of: {', '.join(WORKLOADS)}")
    if unknown := set(filter(None, options.skip.split(","))) - set(EXTRAS):
        top.error(f"unknown name {sorted(unknown)[0]!r}; of: {', '.join(EXTRAS)}")
    try:
        benchmark = Benchmark(options, arguments[split + 1 :])
    except ValueError as error:
        top.error(f"not a number: {error}")
    try:
        benchmark.run()
    except ServerError as error:
        print(f"make bench: {error}", file=sys.stderr)
        if not benchmark.result["runs"]:
            benchmark.folder.rmdir()
        return 2
    measured = [run for run in benchmark.result["runs"] if run.get("succeeded")]
    print(json.dumps(summary_line(benchmark.result, benchmark.folder)))
    return 0 if measured else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill too ends the servers, as Ctrl-C does
    sys.exit(main())
