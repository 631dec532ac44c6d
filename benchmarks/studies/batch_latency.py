"""What a batch costs the client beside it: a caption alone, beside other clients, and beside a batch.

    python -m benchmarks.studies.batch_latency --out FILE [-- FLAGS]

One client asks the demo for a caption again and again: alone, beside four more such clients, beside a batch.
All requests are of one size, each with a file of its own. The batch has more lines than can be done in the
time, so that it is always under way; then it is cancelled. The three take turns, so that all see the same
machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import httpx
from phi_vision.client.process import ServerProcess
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness import drawing, machine, workloads
from benchmarks.studies._server import client_of, running_server
from tests.support.pictures import data_url, encoded

MODEL = "phi-3.5-vision:caption"
ANSWER_TOKENS = 16
CLIENTS = 4  # beside the one that is measured
POLL_S = 0.1
PHOTO = encoded(drawing.photo(Random(0), 336, 252), "JPEG")
WARM_UP = 4  # requests that are not counted
DONE = "vllm:request_success_total"
AT_WORK = ("vllm:num_requests_running", "vllm:num_requests_waiting")


@dataclass
class Row:
    """What the client saw in all rounds: milliseconds of each of its requests."""

    first_token_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    others: int = 0  # requests of others that were answered meanwhile
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """For the result."""
        return {
            "requests": len(self.whole_ms),
            "first_token_ms": spread(self.first_token_ms),
            "whole_ms": spread(self.whole_ms),
            "others_per_s": round(self.others / self.seconds, 2),
        }


def bodies(seed: str) -> Iterator[dict[str, Any]]:
    """Requests without end: a photo in one crop, an answer of fixed length. No two files are alike."""
    for number in itertools.count():
        url = data_url(PHOTO + f"{seed} {number}".encode(), "image/jpeg")
        part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        message = {"role": "user", "content": [part]}
        yield {"model": MODEL, "messages": [message], **workloads.fixed_length(ANSWER_TOKENS)}


class Asker:
    """Asks one server.

    Args:
        server: the server.
        requests: of the measured client in a round.
        lines: of a batch.
    """

    def __init__(self, server: ServerProcess, requests: int, lines: int) -> None:
        self._client = client_of(server)
        self._server = server
        self._requests = requests
        self._lines = lines
        self._loads: dict[str, Callable[[str], AbstractContextManager[Any]]] = {
            "nothing": nullcontext,
            f"{CLIENTS} clients": self._clients,
            "a batch": self._batch,
        }

    def measure(self, rounds: int) -> dict[str, Row]:
        """The client beside each of the loads."""
        rows = {beside: Row() for beside in self._loads}
        for body in itertools.islice(bodies("warm-up"), WARM_UP):
            self._ask(body)
        for number in range(rounds):
            for beside, row in rows.items():
                self._add_round(row, beside, f"round {number} beside {beside}")
                print(number, beside, row.figures(), file=sys.stderr, flush=True)
        return rows

    def _add_round(self, row: Row, beside: str, seed: str) -> None:
        with self._loads[beside](seed):
            done, started_s = self._metric(DONE), time.perf_counter()
            for body in itertools.islice(bodies(f"{seed}, measured"), self._requests):
                first_token_ms, whole_ms = self._ask(body)
                row.first_token_ms.append(first_token_ms)
                row.whole_ms.append(whole_ms)
            row.seconds += time.perf_counter() - started_s
            row.others += self._metric(DONE) - done - self._requests

    def _ask(self, body: dict[str, Any]) -> tuple[float, float]:
        """Milliseconds to the first token and to the end."""
        rest = dict(body)
        model, messages = rest.pop("model"), rest.pop("messages")
        started_s = time.perf_counter()
        first_s = None
        for chunk in self._client.chat.completions.create(
            model=model, messages=messages, stream=True, extra_body=rest
        ):
            if first_s is None and chunk.choices and chunk.choices[0].delta.content:
                first_s = time.perf_counter()
        ended_s = time.perf_counter()
        return 1000 * ((first_s or ended_s) - started_s), 1000 * (ended_s - started_s)

    @contextmanager
    def _clients(self, seed: str) -> Iterator[None]:
        """Other clients that ask meanwhile, each one request after the other."""
        ended = Event()

        def ask_until_ended(number: int) -> None:
            asked = bodies(f"{seed}, client {number}")
            while not ended.is_set():
                self._ask(next(asked))

        with ThreadPoolExecutor(CLIENTS) as pool:
            others = [pool.submit(ask_until_ended, number) for number in range(CLIENTS)]
            try:
                self._wait_until_at_work(CLIENTS)
                yield
            finally:
                ended.set()
        for other in others:
            other.result()

    @contextmanager
    def _batch(self, seed: str) -> Iterator[None]:
        """A batch that is under way meanwhile.

        Raises:
            RuntimeError: it ended too soon, or lines of it failed.
        """
        lines = (
            {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
            for number, body in enumerate(itertools.islice(bodies(f"{seed}, line"), self._lines))
        )
        data = "\n".join(map(json.dumps, lines)).encode()
        file = self._client.files.create(file=("requests.jsonl", data), purpose="batch")
        batch = self._client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        self._wait_until_at_work(1)
        yield
        batch = self._client.batches.retrieve(batch.id)
        if batch.status != "in_progress" or (batch.request_counts and batch.request_counts.failed):
            raise RuntimeError(f"a batch that should be under way: {batch.to_json()}")
        self._client.batches.cancel(batch.id)
        while self._client.batches.retrieve(batch.id).status != "cancelled":
            time.sleep(POLL_S)

    def _wait_until_at_work(self, count: int) -> None:
        while sum(map(self._metric, AT_WORK)) < count:
            self._server.check_running()
            time.sleep(POLL_S)

    def _metric(self, name: str) -> int:
        """A sum over all labels."""
        text = httpx.get(f"{self._server.url}/metrics", trust_env=False, timeout=60).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return round(sum(sample.value for sample in samples if sample.name == name))


def spread(values: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
    return {"p50": round(statistics.median(values), 1), "p95": round(p95, 1)}


def main() -> int:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--rounds", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=20, help="of the client in each round (default: %(default)s)"
    )
    parser.add_argument("--lines", type=int, default=400, help="of a batch (default: %(default)s)")
    parser.add_argument("flags", nargs="*", metavar="-- FLAGS", help="of the server")
    options = parser.parse_args()
    described = machine.describe_machine()
    with running_server("--model", "demo", *options.flags) as server:
        rows = Asker(server, options.requests, options.lines).measure(options.rounds)
    result = {
        "machine": described,
        "rounds": options.rounds,
        "answer_tokens": ANSWER_TOKENS,
        "rows": [{"beside": beside, **row.figures()} for beside, row in rows.items()],
        "load_average_after": round(os.getloadavg()[0], 1),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
