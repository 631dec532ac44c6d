"""One cell of the sweep: AIPerf sends a file of requests, its summary becomes one flat record.

Every figure is AIPerf's own. Failed requests count in `failed` and `error_rate` and nowhere else:
AIPerf's throughput and latencies are those of the requests that succeeded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

LATENCIES = {"ttft_ms": "time_to_first_token", "itl_ms": "inter_token_latency", "e2e_ms": "request_latency"}
_SUMMARY, _SERVER_METRICS = "profile_export_aiperf.json", "server_metrics_export.json"
_STATS = ("avg", "p50", "p90", "p99", "std", "count")
_SETTINGS = {
    "AIPERF_DATASET_MMAP_CACHE_ENABLED": "false",  # it would keep a copy of every picture in the user's cache
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_LOOKS_PER_S = 500  # whether a request has ended and the next can be sent
_OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # with them AIPerf takes no tokenizer folder

# AIPerf insists on a tokenizer. Tokens are counted by the server, so one that knows no word will do.
_TOKENIZER = {
    "tokenizer.json": {"version": "1.0", "added_tokens": []}
    | {"model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}},
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"},
}


class LoadError(Exception):
    """AIPerf gave no summary; the message ends with what it printed last."""


@dataclass(frozen=True)
class Cell:
    """How one file of requests is sent: at a concurrency, or at a rate with no bound on concurrency."""

    url: str
    model: str
    requests: Path  # JSON lines, warm-up requests first
    warmup: int
    count: int  # measured requests
    concurrency: int | None = None
    rate: float | None = None  # requests a second, Poisson arrivals
    timeout_s: float = 600.0
    goodput: str | None = None  # AIPerf's SLOs, such as "time_to_first_token:500 inter_token_latency:50"
    gpu: bool = False  # also keep what NVML says of power and load


def run_aiperf(cell: Cell, folder: Path) -> dict[str, Any]:
    """Send a cell's requests and read the result.

    Args:
        cell: what to send, and how.
        folder: where AIPerf's summary is kept. Its other files stay beside the requests.

    Returns:
        See `parse_summary`.

    Raises:
        LoadError: AIPerf failed.
    """
    scratch = cell.requests.parent
    tokenizer, output = scratch / "tokenizer", scratch / "aiperf"
    shutil.rmtree(output, ignore_errors=True)
    tokenizer.mkdir(exist_ok=True)
    for name, content in _TOKENIZER.items():
        (tokenizer / name).write_text(json.dumps(content))
    environment = {k: v for k, v in os.environ.items() if k not in _OFFLINE_FLAGS} | _SETTINGS
    environment["AIPERF_DATASET_MMAP_BASE_PATH"] = str(scratch)  # it leaves its copy of the requests behind
    start = time.monotonic()
    # A session of its own: Ctrl-C reaches this process alone, which then ends AIPerf.
    process = subprocess.Popen(
        _command(cell, output, tokenizer),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=cell.timeout_s + 120)
    except (KeyboardInterrupt, subprocess.TimeoutExpired) as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, KeyboardInterrupt):
            raise
        raise LoadError(f"no end after {cell.timeout_s + 120:.0f} s") from error
    if (output / _SUMMARY).exists():
        summary = json.loads((output / _SUMMARY).read_text())
    elif found := re.search(r"All (\d+) inference request\(s\) failed", printed):
        summary = {"error_request_count": {"avg": int(found[1])}}  # AIPerf then writes no summary
    else:
        raise LoadError(f"AIPerf ended with {process.returncode}:\n{printed[-2000:]}")
    metrics_file = output / _SERVER_METRICS
    metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
    # Kept without the command line and its many defaults; result.json has the settings.
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in summary.items() if key not in ("input_config", "run_info")}
    (folder / _SUMMARY).write_text(json.dumps(kept) + "\n")
    return parse_summary(summary, metrics) | {"wall_s": time.monotonic() - start}


def _command(cell: Cell, folder: Path, tokenizer: Path) -> list[str]:
    command = [
        *(str(Path(sys.executable).with_name("aiperf")), "profile"),
        *("--model", cell.model),
        *("--url", cell.url),
        *("--endpoint-type", "chat", "--streaming"),
        *("--input-file", str(cell.requests), "--custom-dataset-type", "raw-payload"),
        *("--dataset-sampling-strategy", "sequential"),
        *("--warmup-request-count", str(cell.warmup), "--request-count", str(cell.count)),
        *("--request-timeout-seconds", str(cell.timeout_s)),
        *("--use-server-token-count", "--tokenizer", str(tokenizer)),
        *("--ui", "none", "--export-level", "summary"),
        *(("--gpu-telemetry", "pynvml") if cell.gpu else ("--no-gpu-telemetry",)),
        *("--output-artifact-dir", str(folder)),
    ]
    if cell.rate is None:
        # With a concurrency alone AIPerf's scheduler spins while all requests are under way, on a core that a
        # server on a CPU computes with. With a rate it looks again after the interval.
        command += ["--concurrency", str(cell.concurrency)]
        command += ["--request-rate", str(_LOOKS_PER_S), "--arrival-pattern", "constant"]
    else:
        command += ["--request-rate", str(cell.rate), "--arrival-pattern", "poisson"]
    if cell.goodput:
        command += ["--goodput", cell.goodput]
    return command


def parse_summary(summary: dict[str, Any], server_metrics: dict[str, Any]) -> dict[str, Any]:
    """AIPerf's `profile_export_aiperf.json` and `server_metrics_export.json` as one record.

    Latencies are None where no request succeeded, throughputs then 0. With fewer than two output
    tokens there is no inter-token latency.
    """

    def value(metric: str) -> float:
        return (summary.get(metric) or {}).get("avg") or 0.0

    succeeded, failed = int(value("request_count")), int(value("error_request_count"))
    sent = succeeded + failed
    record: dict[str, Any] = {
        "succeeded": succeeded,
        "failed": failed,
        "error_rate": failed / sent if sent else None,
        "errors": [
            {"message": str(entry["error_details"].get("message"))[:300], "count": entry["count"]}
            for entry in summary.get("error_summary") or []
        ],
        "complete": bool(summary.get("is_complete", True)) and not summary.get("was_cancelled"),
        "duration_s": _seconds_between(summary.get("start_time"), summary.get("end_time")),
        "requests_per_s": value("request_throughput") if succeeded else 0.0,
        "output_tokens_per_s": value("output_token_throughput") if succeeded else 0.0,
        "prompt_tokens": value("usage_prompt_tokens"),
        "output_tokens": value("usage_completion_tokens"),
        "goodput_per_s": (summary.get("goodput") or {}).get("avg"),
    }
    for ours, theirs in LATENCIES.items():
        stats = summary.get(theirs) if succeeded else None
        record[ours] = {stat: stats.get(stat) for stat in _STATS} if stats else None
    record["kv_usage_peak"] = _gauge_max(server_metrics, "vllm:kv_cache_usage_perc")
    return record


def _seconds_between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _gauge_max(server_metrics: dict[str, Any], name: str) -> float | None:
    """The highest value of a gauge while requests were measured, over all engines."""
    series = (server_metrics.get("metrics") or {}).get(name, {}).get("series", [])
    values = [one["stats"]["max"] for one in series if one.get("stats", {}).get("max") is not None]
    return max(values, default=None)
