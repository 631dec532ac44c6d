"""What our chat route adds to a request: ours and vLLM's own, in one process, in alternation.

The server is started by the benchmark (`servers.start_ours`), which puts vLLM's route under `/stock`.
Requests are small, repeated and answered with one token, so that what differs is the route: the task, the
fetching of pictures, the crops.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import drawing, machine
from benchmarks.harness.servers import Server, start_ours
from benchmarks.harness.workloads import image_part, text_part

OURS, STOCK = "/v1/chat/completions", "/stock/v1/chat/completions"


def measure(server: Server, pairs: int) -> list[dict[str, Any]]:
    """Median milliseconds of both routes and of their difference, pair by pair; text, then one picture."""
    picture = image_part(drawing.invoice(Random(0)), lossy=False)
    question = text_part("What is the total?")
    return [
        _alternate(server, "text", [question], pairs),
        _alternate(server, "one picture", [picture, question], pairs),
    ]


def _alternate(server: Server, name: str, parts: list[dict[str, Any]], pairs: int) -> dict[str, Any]:
    body = {
        "model": server.models[0]["id"],
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 1,
        "temperature": 0,
    }
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=300)
    times: Mapping[str, list[float]] = {OURS: [], STOCK: []}
    for i in range(pairs + 3):
        for path in (OURS, STOCK) if i % 2 else (STOCK, OURS):
            elapsed_ms = _post(connection, path, body)
            if i >= 3:  # the first pairs fill the caches
                times[path].append(elapsed_ms)
    differences = [ours - stock for ours, stock in zip(times[OURS], times[STOCK], strict=True)]
    low, _, high = statistics.quantiles(differences, n=4)
    return {
        "request": name,
        "pairs": pairs,
        "ours_ms": statistics.median(times[OURS]),
        "stock_ms": statistics.median(times[STOCK]),
        "difference_ms": statistics.median(differences),
        "difference_quartiles_ms": [low, high],
    }


def _post(connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise OSError(f"{path} answered {answer.status}: {text[:300]!r}")
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Start a server, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200, help="of requests (default: %(default)s)")
    parser.add_argument("--model", default="auto", help="(default: %(default)s)")
    options = parser.parse_args()
    gpu = machine.describe_machine()["gpu"] is not None
    with tempfile.TemporaryDirectory() as folder:
        server = start_ours(sys.executable, Path(folder, "log.txt"), ["--model", options.model], gpu=gpu)
        try:
            print(json.dumps(measure(server, options.pairs)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
