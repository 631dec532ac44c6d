"""A real Prometheus (Debian's package `prometheus`), which reads our rules and scrapes a server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.programs import program
from tests.support.serving import eventually

DEPLOY = Path(__file__).parents[2] / "server" / "deploy"
DASHBOARD = DEPLOY / "grafana" / "phi-vision.json"
RULES = DEPLOY / "prometheus" / "rules.yml"


def panels() -> list[dict[str, Any]]:
    """Those of the dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return list(board["panels"])


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: Any) -> Any:
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters).raise_for_status().json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def now(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression."""
        return list(self.get("query", query=expression)["result"])

    def over(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The same between two times, in seconds since 1970."""
        times = {"start": start_s, "end": end_s, "step": step_s}
        return list(self.get("query_range", query=expression, **times)["result"])


@contextmanager
def running_prometheus(folder: Path, server_url: str, interval_s: int = 1) -> Iterator[Prometheus]:
    """One that scrapes this server each `interval_s` and evaluates the rules; it has scraped it once."""
    config = {
        "global": {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "phi-vision",
                "static_configs": [{"targets": [server_url.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "prometheus.log"
    command = [
        program("prometheus", "prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]

    def listening() -> Sequence[str]:
        return re.findall(r'msg="Listening on" address=(\S+)', log.read_text())

    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            eventually(lambda: bool(listening()) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            prometheus = Prometheus(f"http://{listening()[0]}")
            eventually(lambda: [s["value"][1] for s in prometheus.now("up")] == ["1"])
            yield prometheus
        finally:
            process.terminate()
