"""The parts of the harness, on recorded output. `test_benchmarks_whole` runs all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from benchmarks.harness import compare, float_reference, load, sweep, vram, workloads
from tests.support import fake_server
from tests.support.pictures import reference_picture
from tests.support.plots import cut_off

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[1] / "data"


def close(value: float) -> Any:
    return pytest.approx(value, rel=0.05)


def recorded(name: str) -> dict[str, Any]:
    return json.loads((DATA / "aiperf" / f"{name}.json").read_text())


def test_recorded_output_is_read_right() -> None:
    record = load.parse_summary(recorded("quarter_failed"), recorded("server_metrics"))
    assert (record["succeeded"], record["failed"], record["error_rate"]) == (9, 3, 0.25)
    assert record["errors"][0]["count"] == 3 and "as asked" in record["errors"][0]["message"]
    assert record["ttft_ms"]["p50"] == close(500) and record["itl_ms"]["p50"] == close(50)
    assert record["e2e_ms"]["p50"] == close(500 + 19 * 50)
    assert (record["prompt_tokens"], record["output_tokens"]) == (fake_server.PROMPT_TOKENS, 20)
    assert record["requests_per_s"] == close(9 / record["duration_s"])
    assert record["output_tokens_per_s"] == close(9 * 20 / record["duration_s"])
    assert record["kv_usage_peak"] == 0.25


def test_without_a_success_there_are_no_figures() -> None:
    all_failed = recorded("quarter_failed") | {"request_count": None, "error_request_count": {"avg": 12}}
    record = load.parse_summary(all_failed, {})
    assert (record["succeeded"], record["failed"], record["error_rate"]) == (0, 12, 1.0)
    assert record["requests_per_s"] == record["output_tokens_per_s"] == 0
    assert record["ttft_ms"] is record["itl_ms"] is record["e2e_ms"] is record["kv_usage_peak"] is None


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_requests_are_seeded_and_distinct(name: str) -> None:
    fixed = workloads.fixed_length(8, [1, 2])
    twice = [list(workloads.requests(name, 2, "s", "m", fixed=fixed)) for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0][0]["messages"] != twice[0][1]["messages"]
    assert next(workloads.requests(name, 1, "t", "m", fixed=fixed)) != twice[0][0]
    same = list(workloads.requests(name, 2, "s", "m", fixed=None, distinct=False))
    assert same[0] == same[1] and "min_tokens" not in same[0]
    images = workloads.WORKLOADS[name].draw(Random("x"))
    assert tuple(image.size for image in images) == workloads.WORKLOADS[name].sizes
    assert twice[0][0]["min_tokens"] == twice[0][0]["max_tokens"] == 8 and same[0]["max_tokens"] > 8


def run_record(server: str, ttft_ms: float, number: int = 1, **more: Any) -> dict[str, Any]:
    stats = {"avg": ttft_ms, "p50": ttft_ms, "std": ttft_ms / 50, "count": 24}
    cell = {"workload": "vqa", "concurrency": 4, "rate": None, "distinct_pictures": True, "round": number}
    counts = {"succeeded": 24, "failed": 0, "prompt_tokens": 2000, "output_tokens": 16}
    figures = {"ttft_ms": stats, "itl_ms": None, "e2e_ms": stats, "requests_per_s": 1000 / ttft_ms}
    return {"server": server} | cell | counts | figures | more


def test_ratios_are_paired_by_round() -> None:
    runs = [
        run_record("ours", 100),
        run_record("vllm", 200),
        run_record("vllm", 150, 2),
        run_record("ours", 100, 2),
    ]
    rows = {row["figure"]: row for row in sweep.ratios(runs, "vllm")}
    assert rows.keys() == {"ttft_p50_ms", "e2e_p50_ms", "requests_per_s"}  # none had an inter-token latency
    for row in rows.values():
        assert (row["median"], row["low"], row["high"], row["rounds"]) == (1.75, 1.5, 2.0, 2)
        assert row["same_work"]


@pytest.mark.parametrize("more", [{"output_tokens": 12}, {"prompt_tokens": 1000}, {"failed": 1}])
def test_ratios_say_when_the_work_differed(more: dict[str, Any]) -> None:
    rows = sweep.ratios([run_record("ours", 100), run_record("vllm", 200, **more)], "vllm")
    assert rows and not any(row["same_work"] for row in rows)


def test_two_servers_take_turns_to_be_first() -> None:
    loads = [sweep.Load(concurrency=1), sweep.Load(rate=0.5)]
    steps = sweep.plan(["vqa", "ocr"], loads, 2, repeated=True)
    assert len(steps) == len({step.name for step in steps}) == 2 * (2 * 2 + 2)


def test_compare_tells_change_from_noise() -> None:
    before = {"runs": [run_record("ours", 100)]}

    def verdicts(after: dict[str, Any]) -> set[str]:
        return {change.verdict for change in compare.compare(before, {"runs": [after]})}

    assert verdicts(run_record("ours", 102)) == {"same"}
    assert verdicts(run_record("ours", 150)) == {"slower"}
    assert verdicts(run_record("ours", 60)) == {"faster"}
    noisy = {"avg": 115, "p50": 115, "std": 90, "count": 24}
    assert verdicts(run_record("ours", 115) | {"ttft_ms": noisy, "e2e_ms": noisy}) == {"same"}
    assert compare.failures(before, {"runs": [run_record("ours", 100, failed=2)]})
    assert not compare.failures(before, before)


def test_the_float_reference_is_the_published_processor() -> None:
    cases = json.loads((DATA / "image_processor.json").read_text())["cases"]
    for case in cases:
        picture = reference_picture(case["width"], case["height"], case["seed"])
        crops, size = float_reference.process(picture, case["num_crops"])
        assert list(size) == case["image_size"] and len(crops) == case["num_crops"] + 1
        seen, padding = crops.split([case["crops"], len(crops) - case["crops"]])
        sample = seen.flatten()[case["sample_index"]]
        assert (sample - torch.tensor(case["sample_value"])).abs().max() < 2e-4
        assert not padding.any()


def test_a_servers_memory_breakdown_is_read() -> None:
    log = (
        "Model loading took 7.7 GiB memory and 3.1 seconds\n"
        "Available KV cache memory: 9.5 GiB\n"
        "0.45 GiB for peak activation, and 0.12 GiB for CUDAGraph memory.\n"
    )
    labels = 'block_size="16",kv_cache_memory_bytes="None",kv_cache_size_tokens="25904"'
    metrics = f"vllm:cache_config_info{{{labels}}} 1.0"
    breakdown = vram.parse_memory_breakdown(log, metrics, None)
    assert breakdown["weights_bytes"] == round(7.7 * vram.GIB)
    assert breakdown["kv_bytes"] == round(9.5 * vram.GIB)
    assert breakdown["activation_peak_bytes"] == round(0.45 * vram.GIB)
    assert breakdown["cuda_graph_bytes"] == round(0.12 * vram.GIB)
    assert breakdown["kv_tokens"] == 25904
    assert set(vram.parse_memory_breakdown("", "", None).values()) == {None}


def test_memory_of_a_process_tree_is_seen() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = "import signal; held = b'x' * 200_000_000; print('held', flush=True); signal.pause()"
    command = [sys.executable, "-c", code, child]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        sampler = vram.MemorySampler(process.pid, gpu=False, every_s=0.01)
        sampler.start()
        sampler.mark_steady()
        while not sampler._peak_bytes:
            time.sleep(0.01)
        seen = sampler.stop()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 200e6 < seen["steady_bytes"] < 300e6 and 200e6 < seen["peak_bytes"] < 300e6


@pytest.mark.parametrize("page", sorted((ROOT / "benchmarks" / "results").glob("*/report.html")), ids=str)
def test_no_point_of_a_committed_page_is_cut_off(page: Path) -> None:
    assert page.read_text().count("<use ") > 20
    assert cut_off(page.read_text()) == []


def test_the_load_generator_gets_a_rate_so_that_it_does_not_spin(tmp_path: Path) -> None:
    def command(**how: float) -> list[str]:
        cell = load.Cell("http://127.0.0.1", "model", tmp_path / "requests", warmup=1, count=2, **how)  # type: ignore[arg-type]
        return load._command(cell, tmp_path, tmp_path)

    for given, rate in ((command(concurrency=4), 500), (command(rate=0.5), 0.5)):
        assert float(given[given.index("--request-rate") + 1]) == rate
        assert ("--concurrency" in given) == (rate == 500)
