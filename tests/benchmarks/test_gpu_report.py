"""The GPU report's own parts, without a GPU: its comparison tells right from wrong, and its page is whole."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from phi_vision.planning.gpus import named_gpu

from benchmarks.gpu_report import __main__ as main
from benchmarks.gpu_report import page, programme, rope
from benchmarks.gpu_report.findings import Findings
from benchmarks.gpu_report.servers import Launch
from benchmarks.gpu_report.steps import STEPS
from benchmarks.harness.servers import PLUGINS, Server, ServerError
from tests.support.random_weights import write_random_checkpoint
from tests.support.text_reference import TextReference


@contextmanager
def answering(reference: TextReference, *, factors: str | None) -> Iterator[str]:
    """A server that says what the reference says, or what it says with one set of factors for all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("vllm:num_preemptions_total 0\n")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt, ids = body["prompt"], [260 + i % 90 for i in range(body["max_tokens"])]
            logprobs, modes = reference.answer_logprobs(prompt, ids)
            if factors:
                logprobs = reference.logprobs(prompt + ids[:-1], len(ids), factors)  # type: ignore[arg-type]
            said = {
                "tokens": [f"token_id:{i}" for i in ids],
                "token_logprobs": logprobs[range(len(ids)), ids].tolist(),
            }
            self.reply(json.dumps({"choices": [{"logprobs": said}]}), ",".join(dict.fromkeys(modes)))

        def reply(self, text: str, mode: str = "") -> None:
            data = text.encode()
            self.send_response(200)
            self.send_header("x-phi-vision-rope", mode)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(("factors", "right"), [(None, True), ("long", False)])
def test_the_comparison_tells_wrong_factors(tmp_path: Path, factors: str | None, right: bool) -> None:
    reference = TextReference(write_random_checkpoint(tmp_path))
    with answering(reference, factors=factors) as url:
        server = Server("served", "", url, models=[{"id": "model", "root": str(tmp_path)}])
        findings = Findings({"served": server}, False, tmp_path / "findings.json")
        rope.compare(server, findings)
    found = findings.found
    assert found["served: sum"]["right"] is right
    assert found["served: sum"]["crossed_the_window"] > 0


def test_steps_on_a_large_and_a_small_gpu() -> None:
    large, small = (programme.steps(named_gpu(name)) for name in ("h200", "a10"))
    for every in (large, small):
        names = [step.name for step in every]
        labels = [launch.label for step in every for launch in step.launches]
        assert len(set(names)) == len(names)
        assert len(set(labels)) == len(labels)
        assert {step.ask for step in every} <= STEPS.keys()
        assert all(step.limit_s <= 600 for step in every)
    assert {step.name for step in large} - {step.name for step in small} == {
        "speed",
        "a10 speed",
        "profile long",
    }
    assert {step.name for step in small} - {step.name for step in large} == {"speed, ours", "speed, stock"}


class ScriptedServer:
    """A server that starts only eager."""

    started: ClassVar[list[str]] = []

    def __init__(self, launch: Launch, log_path: Path, scratch: Path, *, gpu: bool) -> None:
        self.launch = launch

    def start(self, deadline: float) -> Server:
        self.started.append(self.launch.label)
        if not self.launch.is_eager:
            raise ServerError("it does not compile")
        return Server(self.launch.label, "", "http://127.0.0.1:1")

    def describe(self, server: Server) -> dict[str, Any]:
        return {"compiled": False, "start_s": 1.0, "plan": None, "account": {}, "actual": None}

    def stop(self) -> dict[str, Any]:
        return {"exit_code": 0}


def test_where_the_default_does_not_compile_all_run_eager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedServer, "started", [])
    monkeypatch.setattr(main, "WaitingServer", ScriptedServer)
    monkeypatch.setattr(main.Report, "_ask", lambda *_: ({"it": "found"}, True))
    report = main.Report(tmp_path, tmp_path, named_gpu("h200"), minutes=10)
    default, speed = (
        step for step in programme.steps(named_gpu("h200")) if step.name in ("default", "speed")
    )
    assert report.run(default) and report.run(speed)
    assert ScriptedServer.started[:2] == ["default", "default, eager"]
    assert sorted(ScriptedServer.started[2:]) == ["ours, eager", "stock, eager"]
    assert report.is_done(default) and not report.is_proven(default)
    assert report.is_proven(speed)
    assert report.result(default)["servers"].keys() == {"default, eager"}


def test_a_server_touches_the_gpu_when_its_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    turn = tmp_path / "turn"
    seen: list[str] = []
    monkeypatch.syspath_prepend(str(PLUGINS))
    plugin = importlib.import_module("turn")
    monkeypatch.setenv(plugin.VARIABLE, str(turn))
    monkeypatch.setattr(WorkerWrapperBase, "init_device", lambda _: seen.append("initialised"))

    def wait(_: float) -> None:
        seen.append("waited")
        turn.touch()

    monkeypatch.setattr(plugin.time, "sleep", wait)
    plugin.register()
    WorkerWrapperBase.init_device(object.__new__(WorkerWrapperBase))
    assert seen == ["waited", "initialised"]


def test_a_page_without_and_with_findings() -> None:
    row = {"step": "default", "what": "it", "complete": True, "seconds": 1.0}
    asked = {"prompt_tokens": 5000, "first_token_s": 0.5}
    wrong = {"answer": "maybe", "right": False}
    machine = {"gpu": "NVIDIA A10", "gpu_memory_bytes": 23 << 30, "cores": 8, "cpu": "a CPU"}
    report = {"written": "2026-11-29", "machine": machine, "versions": {}, "weights": "random"}
    assert "| default |" in page.page({**report, "steps": [row]})
    found = {"long request": asked, "structured output": wrong}
    cells = {"ours": {"server": "ours", "work": "vqa", "concurrency": 8}, "stock": {"error": "it ended"}}
    speed = {**row, "step": "speed", "found": cells}
    text = page.page({**report, "steps": [{**row, "found": found}, speed]})
    assert "| ours | vqa | 8 |" in text and "stock: it ended" in text
    assert "| default | 5,000 | 0.5 |" in text
    assert "structured output: not right" in text


def test_a_report_that_was_cut_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(_: main.Report, step: Any, *__: Any) -> tuple[dict[str, Any], bool]:
        asked.append(step.name)
        return {}, step.name != "rope" or asked.count("rope") > 1  # cut off the first time

    monkeypatch.setattr(main.Report, "_ask", ask)
    monkeypatch.setattr(main, "WaitingServer", ScriptedServer)
    monkeypatch.setattr(main, "find_device", lambda _: named_gpu("h200"))

    def run(*arguments: str) -> int:
        names = "kernels;rope"
        monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path), "--steps", names, *arguments])
        return main.main()

    assert (run(), asked) == (1, ["kernels", "rope"])
    run()
    assert asked == ["kernels", "rope", "rope"]
    run("--fresh")
    assert asked[3:] == ["kernels", "rope"]


def test_a_report_without_a_driver_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phi_vision.planning.hardware.installed_engine", lambda: "cuda")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["", "--device", "cuda"])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert "no NVIDIA driver answers here" in capsys.readouterr().err.splitlines()[-1]
