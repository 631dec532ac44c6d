"""What a step gets and where its findings go, and what several steps ask of a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.servers import Server, fetch_text


@dataclass
class Findings:
    """A step's servers by label, and its findings in a file that a step cut off leaves behind."""

    servers: Mapping[str, Server]
    gpu: bool
    path: Path
    found: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: Any) -> None:
        """Keep a finding."""
        self.found[name] = value
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.found))
        unfinished.rename(self.path)
        print(f"  {name}: {json.dumps(value)[:300]}", flush=True)

    def attempt(self, name: str, work: Callable[..., Any], *arguments: Any) -> None:
        """Note what `work` finds with these arguments, or how it fails: one failure does not end the step."""
        try:
            found = work(*arguments)
            if found is not None:
                self.note(name, found)
        except Exception as error:
            self.note(name, {"error": f"{type(error).__name__}: {error}"[:1500]})


def preemptions(url: str) -> float:
    """How often this server has preempted a request."""
    families = text_string_to_metric_families(fetch_text(f"{url}/metrics"))
    samples = (sample for family in families for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == "vllm:num_preemptions_total")


def token_ids(count: int, seed: int = 0) -> list[int]:
    """A prompt: `<s>` and printable characters, a token each."""
    draw = Random(1000 * count + seed)
    return [1, *(draw.randrange(260, 350) for _ in range(count - 1))]
