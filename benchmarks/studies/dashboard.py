"""What does the Grafana dashboard show of a server at work? Data for the picture in `server/README.md`.

    python -m benchmarks.studies.dashboard --out FILE [--seconds N]

A server with the demo answers pictures and pages beside a batch, while a real Prometheus scrapes it each
second: first as many as it can take, then more, then fewer again. Some name URLs that it does not fetch. The
result holds the series of each panel as the dashboard asks for them. Needs `prometheus` (Debian's package).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx
from phi_vision.client.process import ServerProcess

from benchmarks.harness import drawing
from benchmarks.harness.machine import describe_machine
from benchmarks.studies._server import client_of, running_server
from tests.support.pdf import pdf, picture_page
from tests.support.pictures import data_url, encoded, image_part, user
from tests.support.prometheus import Prometheus, panels, running_prometheus

STEP_S = 2
RATE_OVER = "15s"  # in place of Grafana's `$__rate_interval`
MODEL = "phi-3.5-vision-demo"
LEVELS = (2, 16, 2)  # clients at once, a third of the time each
QUEUE = "10"


def main() -> None:
    """Serve, load, scrape, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=180, help="of load (default: %(default)s)")
    args = parser.parse_args()
    flags = ("--model", "demo", "--max-num-queued-reqs", QUEUE)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(*flags) as server,
        running_prometheus(Path(folder), server.url) as prometheus,
    ):
        start_s = time.time()
        _load(server, args.seconds)
        shown = [_shown(prometheus, panel, start_s) for panel in panels()]
    found = {"machine": describe_machine(), "levels": LEVELS, "step_s": STEP_S, "panels": shown}
    args.out.write_text(json.dumps(found) + "\n")


def _load(server: ServerProcess, seconds: float) -> None:
    _start_batch(server)
    for level in LEVELS:
        stop = threading.Event()
        with ThreadPoolExecutor(level) as pool:
            clients = [pool.submit(_client, server, number, stop) for number in range(level)]
            time.sleep(seconds / len(LEVELS))
            stop.set()
        for client in clients:
            client.result()


def _client(server: ServerProcess, number: int, stop: threading.Event) -> None:
    """Asks again and again, a little later where it was refused."""
    rng = Random(number)
    requests = (_caption, _question, _caption, _page, _private_url)
    with httpx.Client(base_url=server.url, timeout=900) as http:
        while not stop.is_set():
            path, body = rng.choice(requests)(rng)
            if http.post(path, json={"model": MODEL, **body}).status_code == 429:
                stop.wait(1)


def _picture(rng: Random) -> dict[str, Any]:
    return image_part(encoded(drawing.invoice(rng)))


def _caption(rng: Random) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"messages": [user(_picture(rng))], "task": "caption"}


def _question(rng: Random) -> tuple[str, dict[str, Any]]:
    message = user(_picture(rng), "What is the total?")
    return "/v1/chat/completions", {"messages": [message], "task": "vqa", "max_tokens": 32}


def _page(rng: Random) -> tuple[str, dict[str, Any]]:
    url = data_url(pdf(picture_page(drawing.invoice(rng))), "application/pdf")
    document = {"type": "document_url", "document_url": url}
    return "/v1/ocr", {"document": document, "retries": False, "tiles": "off"}


def _private_url(_: Random) -> tuple[str, dict[str, Any]]:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/picture.png"}}
    return "/v1/chat/completions", {"messages": [user(part)], "task": "caption"}


def _start_batch(server: ServerProcess) -> None:
    line = {"method": "POST", "url": "/v1/chat/completions"}
    rng = Random("batch")
    lines = [{"custom_id": str(n), **line, "body": {"model": MODEL, **_caption(rng)[1]}} for n in range(40)]
    client = client_of(server)
    file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def _shown(prometheus: Prometheus, panel: dict[str, Any], start_s: float) -> dict[str, Any]:
    """The series of a panel: legend, and pairs of seconds since the start and value."""
    end_s = time.time()
    series = []
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", RATE_OVER)
        for found in prometheus.over(expression, start_s, end_s, STEP_S):
            legend = target["legendFormat"]
            for label, value in found["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            points = [
                [round(at_s - start_s), float(f"{float(value):.4g}")]
                for at_s, value in found["values"]
                if value != "NaN"
            ]
            series.append({"legend": legend, "points": points})
    unit = panel["fieldConfig"]["defaults"]["unit"]
    return {"title": panel["title"], "unit": unit, "place": panel["gridPos"], "series": series}


if __name__ == "__main__":
    main()
