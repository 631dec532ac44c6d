"""The metrics as such: what each is about, their labels, and several API processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from phi_vision.serving import metrics
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from tests.support.scraped import samples, total, value


def test_the_series_of_one_label_begin_at_zero() -> None:
    for metric in metrics.DECLARED:
        if metric.kind == "counter" and len(metric.labels) == 1:
            ((label, values),) = metric.labels.items()
            assert all(REGISTRY.get_sample_value(metric.name, {label: each}) is not None for each in values)


def test_the_lines_of_several_batches_add_up() -> None:
    first, second = metrics.BatchItems(), metrics.BatchItems()

    def waiting() -> float:
        return value("phi_vision_batch_items", state="waiting")

    before = waiting()
    first.show({"waiting": 5})
    second.show({"waiting": 2, "done": 1})
    first.show({"waiting": 3, "done": 2})
    assert waiting() == before + 5
    first.show({})
    assert waiting() == before + 2
    second.show({})
    assert waiting() == before


PROCESS = """
from phi_vision.serving import metrics
metrics.REQUESTS.labels("/v1/ocr", "ocr", "2xx").inc()
metrics.IN_FLIGHT.inc()
metrics.LIMIT.set(4)
with metrics.timing("draw"):
    pass
print("counted", flush=True)
input()
"""


def test_several_api_processes_are_added_up(tmp_path: Path) -> None:
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "counted\n"
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
        found = list(samples(generate_latest(registry).decode()))
    finally:
        for process in processes:
            process.communicate("")
    assert total(found, "phi_vision_requests_total", route="/v1/ocr", task="ocr", status="2xx") == 2
    assert total(found, "phi_vision_requests_in_flight") == 2
    assert total(found, "phi_vision_requests_limit") == 4
    assert total(found, "phi_vision_stage_seconds_count", stage="draw") == 2
    assert not [sample.labels for sample in found if "pid" in sample.labels]
