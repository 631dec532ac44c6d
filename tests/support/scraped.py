"""What `/metrics` says, for tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def value(name: str, **labels: str) -> float:
    """Of a series in this process; 0 where it has not begun."""
    return REGISTRY.get_sample_value(name, labels) or 0


def scraped(url: str) -> list[Sample]:
    """All series of a server."""
    return list(samples(httpx.get(f"{url}/metrics").raise_for_status().text))


def samples(text: str) -> Iterator[Sample]:
    """The series in a text that Prometheus reads."""
    for family in text_string_to_metric_families(text):
        yield from family.samples


def total(found: list[Sample], name: str, **labels: str) -> float:
    """The sum of the series of a name with these labels, and any others."""
    return sum(s.value for s in found if s.name == name and labels.items() <= s.labels.items())
