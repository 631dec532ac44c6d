"""The metrics of several servers as one text of Prometheus' format, each sample with its server."""

from __future__ import annotations

import re
from collections.abc import Mapping

LABEL = "server"

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?( .*)")
_SUFFIXES = ("_bucket", "_count", "_created", "_sum", "_total")


def merge(texts: Mapping[str, str]) -> str:
    """One text of all: the samples of a family stand together, as the format asks for.

    Args:
        texts: of each server, by its name.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for server, text in texts.items():
        for line in text.splitlines():
            if line.startswith("# "):
                _, _, name, *_ = [*line.split(" ", 3), ""]
                head = heads.setdefault(name, [])
                if server == next(iter(texts)) or not any(line.split(" ")[1] in known for known in head):
                    head.append(line)
            elif found := _SAMPLE.fullmatch(line):
                name, labels, rest = found.groups()
                labelled = ",".join(filter(None, (labels, f'{LABEL}="{server}"')))
                samples.setdefault(_family(name, heads), []).append(f"{name}{{{labelled}}}{rest}")
    lines = [line for name, head in heads.items() for line in (*head, *samples.pop(name, []))]
    return "\n".join([*lines, *(line for rest in samples.values() for line in rest), ""])


def _family(sample: str, heads: Mapping[str, object]) -> str:
    """The family of a sample's name: a histogram's have suffixes."""
    names = (sample, *(sample.removesuffix(suffix) for suffix in _SUFFIXES if sample.endswith(suffix)))
    return next((name for name in names if name in heads), sample)
