"""`phi-vision batch --ray`: which cluster, and how many of its processes ask whom."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi_vision.batch.inputs import Files
from phi_vision.batch.queue import Queue
from phi_vision.batch.run_settings import Question
from phi_vision.batch.runner import Progress
from phi_vision.batch.work import Item
from phi_vision.cli.servers import named_servers
from phi_vision.cli.terminal import on_signals, print_status, stop_signals
from phi_vision.errors import UsageError


@contextmanager
def on_cluster(options: argparse.Namespace, fetched: Path) -> Iterator[OnRay | None]:
    """The cluster that `--ray` names; None without that flag.

    Args:
        options: of the command.
        fetched: folder for documents that are named by their address.

    Raises:
        UsageError: the flags do not go together, or there is no such cluster.
    """
    if options.ray_servers and (options.ray is None or options.base_url):
        raise UsageError("--ray-servers goes with --ray, and not with --base-url")
    if options.ray is None:
        yield None
        return
    from phi_vision.batch.on_ray.cluster import connected

    with connected(options.ray):
        yield OnRay(options, fetched)


class OnRay:
    """What the command has the cluster do."""

    def __init__(self, options: argparse.Namespace, fetched: Path) -> None:
        from phi_vision.batch.on_ray.job import Job

        self._options = options
        self._job = Job(fetched)
        self._endpoints = [] if options.ray_servers else named_servers(options.base_url or ())
        self._gpus_each, self._num_askers = 0, len(self._endpoints)
        if not self._endpoints:
            self._gpus_each, self._num_askers = _own_servers(options.ray_servers, options.device)

    def items(self, files: Files) -> Iterator[Item]:
        """See `Job.items`."""
        return self._job.items(files)

    def ask(self, queue: Queue, question: Question, on_change: Callable[[Progress], None]) -> int | None:
        """See `Job.ask`.

        Returns:
            The number of the signal that ended it early, if one did.

        Raises:
            UsageError: no server takes requests, or one does not take the key or does not do the task.
        """
        from phi_vision.batch.on_ray.stages import AskSettings

        settings = AskSettings(question, self._options.concurrency, self._endpoints, self._options.device)
        if self._endpoints:
            asyncio.run(settings.check())
        else:
            print_status(f"starting {self._num_askers} engine(s) on the cluster")
        try:
            with on_signals(stop_signals(), _stop):
                self._job.ask(
                    queue,
                    settings,
                    self._num_askers,
                    gpus_each=self._gpus_each,
                    max_errors=self._options.max_errors,
                    on_change=on_change,
                )
        except _Stopped as stopped:
            return stopped.number
        return None


class _Stopped(BaseException):
    """A signal; no event loop waits for it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _: Any) -> None:
    raise _Stopped(number)


def _own_servers(wanted: int | None, device: str) -> tuple[int, int]:
    """GPUs of each, and how many there are."""
    from phi_vision.batch.on_ray.cluster import num_gpus

    gpus = 0 if device == "cpu" else num_gpus()
    if wanted is None and not gpus:
        raise UsageError("the cluster has no GPU: name servers with --base-url, or add --ray-servers N")
    if gpus and wanted is not None and wanted > gpus:
        raise UsageError(f"--ray-servers {wanted}: the cluster has {gpus} GPUs")
    return (1 if gpus else 0), wanted or gpus
