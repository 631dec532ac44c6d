"""What this model does on the GPU of this machine, checked and measured in one command: `make gpu-report`.

Steps in order of value, each bounded in time and in a process of its own: one that fails or hangs costs
itself. Each leaves a JSON file; a step whose file is complete is not run again, so a report that was cut
goes on; `--fresh` runs it anew. Servers have random weights of the real size (`--load-format dummy`); those
of the next steps import while a step runs, and get the GPU one after another. After each step: report.json,
report.md.

Without a GPU (`--device cpu`) the same steps run on the demo, small: a rehearsal, whose figures say
nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from phi_vision.errors import UsageError
from phi_vision.planning.hardware import Device, find_device

from benchmarks.gpu_report import page
from benchmarks.gpu_report.programme import Step, steps
from benchmarks.gpu_report.servers import Launch, WaitingServer, file_name
from benchmarks.gpu_report.steps import run_step
from benchmarks.harness.machine import describe_machine, git_state, installed_versions, label, now
from benchmarks.harness.servers import ROOT, Server, ServerError
from benchmarks.harness.vram import process_tree

_LEAST_S = 40  # no step begins with less time left
_AHEAD = 2  # steps whose servers are imported while another runs; each is some GiB of RAM
_GPU_WEIGHTS = "random, of the published model's size; the rope step: of the demo's size"


class Report:
    """The report's folder, the servers under way, and the time that is left."""

    def __init__(self, out: Path, scratch: Path, device: Device, minutes: float) -> None:
        self.out = out
        self.gpu = device.kind == "cuda"
        self.deadline = time.monotonic() + 60 * minutes
        self._scratch = scratch
        self._logs, self._results = out / "logs", out / "steps"
        for folder in (self._logs, self._results):
            folder.mkdir(parents=True, exist_ok=True)
        self._waiting: dict[Launch, WaitingServer] = {}
        self._compiles = self.gpu  # until it turns out that it does not

    def left_s(self) -> float:
        """Seconds until the report must be done."""
        return self.deadline - time.monotonic()

    def result(self, step: Step) -> dict[str, Any]:
        """What is known of a step; empty where it has not run."""
        path = self._path(step)
        return json.loads(path.read_text()) if path.exists() else {}

    def is_done(self, step: Step) -> bool:
        """Whether it came to its end, now or in an earlier run."""
        return self.result(step).get("complete", False)

    def is_proven(self, step: Step) -> bool:
        """Whether it is done and nothing in it went wrong."""
        return self.is_done(step) and not page.faults(self.result(step))

    def forget(self, step: Step) -> None:
        """Have it run again."""
        self._path(step).unlink(missing_ok=True)

    def launch(self, launch: Launch) -> WaitingServer:
        """A server that waits for its turn."""
        if launch not in self._waiting:
            log_path = self._logs / f"{file_name(launch.label)}.log"
            self._waiting[launch] = WaitingServer(launch, log_path, self._scratch, gpu=self.gpu)
        return self._waiting[launch]

    def stop_all(self) -> None:
        """End all servers."""
        while self._waiting:
            self._waiting.popitem()[1].stop()

    def run(self, step: Step) -> bool:
        """Run a step; whether its servers started. Where a compiled server fails, all are tried eager."""
        began = time.monotonic()
        limit_s = step.limit_s if self.gpu else 4 * step.limit_s
        deadline = began + min(limit_s, self.left_s() - 5)
        row: dict[str, Any] = {"step": step.name, "what": step.what, "complete": False, "start_errors": []}
        eager = tuple(launch.as_eager for launch in step.launches)
        attempts = [step.launches] if not self.gpu or eager == step.launches else [step.launches, eager]
        for launches in attempts if self._compiles else attempts[-1:]:
            try:
                servers = self._start(launches, deadline)
                break
            except ServerError as error:
                print(f"  {error}", flush=True)
                row["start_errors"].append(str(error))
                self._compiles = self._compiles and step.name != "default"
        else:
            servers = None
        if servers is not None:
            urls = {server.label: server.url for server in servers.values()}
            row["found"], row["complete"] = self._ask(step, urls, deadline)
            row["servers"] = {}
            for launch, server in servers.items():
                waiting = self._waiting.pop(launch)
                row["servers"][server.label] = waiting.describe(server) | waiting.stop()
        row["seconds"] = round(time.monotonic() - began, 1)
        self._path(step).write_text(json.dumps(row, indent=1))
        return servers is not None

    def write(self, wanted: list[Step]) -> None:
        """report.json and report.md of what there is."""
        report = {
            "written": now(),
            "machine": describe_machine(),
            "versions": installed_versions(),
            "git": git_state(),
            "weights": _GPU_WEIGHTS if self.gpu else "the demo's; the rope step: random",
            "steps": [row for step in wanted if (row := self.result(step))],
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        (self.out / "report.md").write_text(page.page(report))

    def _path(self, step: Step) -> Path:
        return self._results / f"{file_name(step.name)}.json"

    def _start(self, launches: tuple[Launch, ...], deadline: float) -> dict[Launch, Server]:
        """A step's servers, ready; none is left where one does not start."""
        waiting = [self.launch(launch) for launch in launches]
        try:
            with ThreadPoolExecutor() as pool:
                servers = list(pool.map(WaitingServer.start, waiting, [deadline] * len(waiting)))
        except ServerError:
            for launch in launches:
                self._waiting.pop(launch).stop()
            raise
        return dict(zip(launches, servers, strict=True))

    def _ask(self, step: Step, urls: dict[str, str], deadline: float) -> tuple[dict[str, Any], bool]:
        """What the step's own process found, and whether it came to its end."""
        path = self._results / "findings.json"
        path.write_text("{}")
        process = multiprocessing.get_context("spawn").Process(
            target=run_step, args=(step.ask, urls, path), kwargs={"gpu": self.gpu}
        )
        process.start()
        try:
            process.join(max(5.0, deadline - time.monotonic()))
        finally:
            if process.is_alive():
                print("  cut off: out of time", flush=True)
                for each in process_tree(process.pid or 0):
                    each.kill()
                process.join()
        return json.loads(path.read_text()), process.exitcode == 0


def main() -> int:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(prog="make gpu-report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="(default: results/<machine>-gpu-report)")
    parser.add_argument("--minutes", type=float, default=60, help="for all (default: %(default)s)")
    parser.add_argument("--steps", metavar="NAMES", help="names with ; between them (default: all)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--fresh", action="store_true", help="run steps again that are complete")
    parser.add_argument("--list", action="store_true", help="name the steps and end")
    options = parser.parse_args()
    try:
        device = find_device(options.device)
    except UsageError as error:
        parser.error(str(error))
    every = steps(device)
    if options.list:
        print("\n".join(f"{step.name:<40}{step.what}" for step in every))
        return 0
    names = options.steps.split(";") if options.steps else [step.name for step in every]
    if unknown := set(names) - {step.name for step in every}:
        parser.error(f"--steps: no step is named {', '.join(sorted(unknown))}; --list names them")
    chosen = [step for step in every if step.name in names]
    out = options.out or ROOT / "benchmarks" / "results" / f"{label(describe_machine())}-gpu-report"
    with tempfile.TemporaryDirectory() as scratch:
        report = Report(out, Path(scratch), device, options.minutes)
        if options.fresh:
            for step in chosen:
                report.forget(step)
        try:
            _run_all(report, [step for step in chosen if not report.is_done(step)], every)
        finally:
            report.stop_all()
            report.write(every)
    print((out / "report.md").read_text(), flush=True)
    return 0 if all(report.is_proven(step) for step in chosen) else 1


def _run_all(report: Report, pending: list[Step], every: list[Step]) -> None:
    for i, step in enumerate(pending):
        if report.left_s() < _LEAST_S:
            print("out of time", flush=True)
            return
        print(f"{step.name}: {step.what} ({report.left_s():.0f} s left)", flush=True)
        if report.gpu:  # a CPU has its cores full with one
            for launch in (launch for near in pending[i : i + 1 + _AHEAD] for launch in near.launches):
                report.launch(launch)
        started = report.run(step)
        report.write(every)
        if not started and step.name == "default":
            print("the first server did not start: nothing else will", flush=True)
            return


if __name__ == "__main__":
    sys.exit(main())
