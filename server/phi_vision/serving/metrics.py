"""The server's own metrics, on `/metrics` beside vLLM's: each with its help text, labels and their values.

No label's value comes from a client, so their number is bounded and no secret or URL gets among them.

prometheus_client decides at its import whether values are kept in this process or, where
`PROMETHEUS_MULTIPROC_DIR` is set, in files that all API processes share. vLLM sets it before it starts
several of them, and each imports this module anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from prometheus_client import Counter, Gauge, Histogram

from phi_vision.batch.work import STATES, State
from phi_vision.documents.answers import Status as PageStatus
from phi_vision.media.fetch import FetchReason
from phi_vision.serving import tracing
from phi_vision.tasks.presets import PRESETS

PREFIX = "phi_vision_"

ROUTES = (  # each stands for the paths below it too
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/ocr",
    "/v1/files",
    "/v1/batches",
    "/v1/models",
    "/v1/tasks",
)
OTHER = "other"  # of routes
NO_TASK = "none"

StatusClass = Literal["2xx", "3xx", "4xx", "429", "5xx", "disconnected"]
RefusalReason = Literal[
    "origin",
    "api_key",
    "queue_full",
    "stopping",
    "connections",
    "too_large",
    "too_slow",
    "invalid",
    "not_found",
    "misdirected",
    "busy",
    "unavailable",
]
Stage = Literal["fetch", "draw", "engine"]
PictureKind = Literal["picture", "page", "reading"]
RopeModes = Literal["short", "long", "both"]

_STAGE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True)
class Declared:
    """What there is to say about a metric.

    Args:
        name: as it is scraped, without the suffixes of a histogram's series.
        kind: counter, gauge or histogram.
        help: what it counts.
        labels: each with all of its values.
    """

    name: str
    kind: str
    help: str
    labels: Mapping[str, Sequence[str]]


DECLARED: list[Declared] = []

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


def _declare(metric: _Metric, name: str, help_text: str, labels: Mapping[str, Sequence[str]]) -> _Metric:
    """Note the metric; the series of one label begin at 0, so that their first event is seen as a change."""
    DECLARED.append(Declared(PREFIX + name, type(metric).__name__.lower(), help_text, labels))
    if len(labels) == 1:
        for values in itertools.product(*labels.values()):
            metric.labels(*values)
    return metric


def _counter(name: str, help_text: str, **labels: Sequence[str]) -> Counter:
    return _declare(Counter(PREFIX + name, help_text, list(labels)), name, help_text, labels)


def _gauge(
    name: str,
    help_text: str,
    of_several: Literal["livesum", "livemax"] = "livesum",
    **labels: Sequence[str],
) -> Gauge:
    """Of several API processes the sum, or the one number that all have; those that have ended left out."""
    gauge = Gauge(PREFIX + name, help_text, list(labels), multiprocess_mode=of_several)
    return _declare(gauge, name, help_text, labels)


def _histogram(name: str, help_text: str, buckets: Sequence[float], **labels: Sequence[str]) -> Histogram:
    histogram = Histogram(PREFIX + name, help_text, list(labels), buckets=buckets)
    return _declare(histogram, name, help_text, labels)


REQUESTS = _counter(
    "requests_total",
    "Requests that have ended, lines of batches among them.",
    route=(*ROUTES, OTHER),
    task=(*PRESETS, NO_TASK),
    status=get_args(StatusClass),
)
REFUSALS = _counter(
    "refusals_total",
    "Requests that were answered with 4xx or 503, by reason.",
    reason=get_args(RefusalReason),
)
IN_FLIGHT = _gauge(
    "requests_in_flight", "Requests of clients at work or waiting. Lines of batches do not count."
)
LIMIT = _gauge("requests_limit", "The most that are taken (--max-num-queued-reqs).", "livemax")
_STAGES = _histogram(
    "stage_seconds",
    "Time of one picture to be fetched from its URL, or to be decoded and drawn, the wait for a worker "
    "included; and of one prompt in the engine, its queue included.",
    _STAGE_BUCKETS_S,
    stage=get_args(Stage),
)
PICTURES = _counter(
    "pictures_total",
    "Pictures in prompts: given as such, pages of documents, or what /v1/ocr shows of a page each time.",
    kind=get_args(PictureKind),
)
CROPS = _counter("crops_total", "Crops of these pictures.")
IMAGE_TOKENS = _counter("image_tokens_total", "Image tokens of these pictures.")
PAGES = _counter("pages_total", "Pages that /v1/ocr has read, by status.", status=get_args(PageStatus))
DECODER_DEATHS = _counter(
    "decoder_deaths_total", "Picture workers that crashed or ran out of memory; another one starts."
)
FETCH_REFUSALS = _counter(
    "fetch_refusals_total",
    "Pictures and documents whose URL gave no file, by why.",
    reason=get_args(FetchReason),
)
ROPE_REQUESTS = _counter(
    "rope_requests_total",
    "Answered requests by LongRoPE's factors; of a stream, those of its prompt count.",
    mode=get_args(RopeModes),
)
_BATCH_ITEMS = _gauge("batch_items", "Lines of the batches that are at work, by state.", state=STATES)


@contextmanager
def timing(stage: Stage) -> Iterator[None]:
    """Measures how long its block takes, and shows it as a span; vLLM has one of the engine."""
    with _STAGES.labels(stage).time(), nullcontext() if stage == "engine" else tracing.span(stage):
        yield


class BatchItems:
    """What one batch adds to the gauge while it is at work."""

    def __init__(self) -> None:
        self._shown: dict[State, int] = dict.fromkeys(STATES, 0)

    def show(self, counts: Mapping[State, int]) -> None:
        """How many lines are in each state now; nothing at the end."""
        for state in STATES:
            now = counts.get(state, 0)
            _BATCH_ITEMS.labels(state).inc(now - self._shown[state])
            self._shown[state] = now
