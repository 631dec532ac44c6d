"""The front end beside the GPU: pictures a second, and how many processes receive and draw them. Pure.

More API processes than one cost something: each has its own cache of pictures, and vLLM then sends a picture
to the engine each time it is asked about. So there are more only where one would be the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phi_vision.config import ServeConfig
from phi_vision.model.geometry import CropGrid, crop_grid
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import rates_of
from phi_vision.planning.hardware import Device
from phi_vision.planning.memory import WEIGHTS_BITS, MemoryPlan
from phi_vision.planning.picture_costs import KINDS, PictureKind
from phi_vision.planning.roofline import Rates, Work, limit, requests_per_s
from phi_vision.spec import Dimensions

QUESTION_TOKENS = 18  # a short one, with what stands around it
ANSWER_TOKENS = 16  # a caption in a line: with longer answers the GPU takes fewer pictures

_BUSY = 0.8  # share of its time that an API process may be at work: beyond it, requests wait for one another

# With these flags vLLM's API processes are elsewhere, or of another kind.
_OTHER_FRONT_ENDS = {"--headless", "--grpc", "--data-parallel-start-rank", "--data-parallel-size-local"}


@dataclass(frozen=True)
class Rate:
    """Pictures of one kind a second, at most."""

    picture: str
    gpu: float | None  # of all engines; None: not known
    cores: float  # received and drawn
    media_workers: float  # drawn by as many as there are, each with a core
    api_processes: float  # received
    cores_wanted: int | None  # how many would keep up with the GPU; None: not known

    @property
    def least(self) -> float:
        """What gets through."""
        return min(self._by_name.values())

    @property
    def bottleneck(self) -> str:
        """Whose rate that is."""
        return min(self._by_name, key=self._by_name.__getitem__)

    @property
    def _by_name(self) -> dict[str, float]:
        rates = {
            "the GPU": self.gpu,
            "the cores": self.cores,
            "picture workers": self.media_workers,
            "API processes": self.api_processes,
        }
        return {name: rate for name, rate in rates.items() if rate is not None}


@dataclass(frozen=True)
class FrontEnd:
    """What receives and draws pictures.

    Args:
        cores: of the machine, which it shares with the engine's process.
        api_processes: vLLM's `--api-server-count`.
        media_workers: picture workers of each API process.
        rates: of each kind of picture; empty where the model computes on the same cores.
    """

    cores: int
    api_processes: int
    media_workers: int
    rates: tuple[Rate, ...]

    @property
    def line(self) -> str:
        """What there is and what limits it, on one line."""
        each = " each" if self.api_processes > 1 else ""
        processes = _counted(self.api_processes, "API process", "es")
        return f"{processes}, {_counted(self.media_workers, 'picture worker')}{each}; {self._limits()}"

    def _limits(self) -> str:
        if not self.rates:
            return "the model computes on the same cores"
        low, high = (_shown(pick(rate.least for rate in self.rates)) for pick in (min, max))
        reach = f"{low if low == high else f'{low} to {high}'} pictures a second at most"
        if self.rates[0].gpu is None:
            return f"{reach}; what this GPU takes is not known"
        by_limit: dict[str, list[str]] = {}
        for rate in self.rates:
            by_limit.setdefault(rate.bottleneck, []).append(rate.picture)
        if len(by_limit) == 1:
            return f"{reach}, limited by {next(iter(by_limit))}"
        parts = (f"{name} ({', '.join(pictures)})" for name, pictures in by_limit.items())
        return f"{reach}, limited by {' and '.join(parts)}"

    def table(self) -> list[str]:
        """The rates as lines of text, a column for each kind of picture; none without rates."""
        if not self.rates:
            return []
        rows: dict[str, Sequence[float | str | None]] = {
            "pictures a second, at most": [rate.picture for rate in self.rates],
            f"the GPU, {ANSWER_TOKENS} tokens an answer": [rate.gpu for rate in self.rates],
            _counted(self.cores, "core"): [rate.cores for rate in self.rates],
            _counted(self.api_processes, "API process", "es"): [rate.api_processes for rate in self.rates],
        }
        return [
            f"  {name:<31}" + "".join(f"{_shown(cell):>16}" for cell in cells) for name, cells in rows.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return asdict(self)


def plan_front_end(
    config: ServeConfig,
    flags: EngineFlags,
    device: Device,
    cores: int,
    model: Dimensions,
    memory: MemoryPlan | None,
) -> FrontEnd | None:
    """Plan it; None where vLLM's flags put it elsewhere.

    Args:
        config: our settings; `--media-workers` wins.
        flags: vLLM's; `--api-server-count` wins.
        device: that the model runs on.
        cores: of the machine.
        model: its dimensions.
        memory: its plan on the device; None: not planned.
    """
    if flags.names & _OTHER_FRONT_ENDS:
        return None
    engines = flags.data_parallel_size

    def with_processes(number: int) -> FrontEnd:
        workers = config.limits.media_workers_each(number, cores)
        if device.kind == "cpu":
            return FrontEnd(cores, number, workers, ())
        # One core is each engine's, whose process schedules and feeds the GPU all the time.
        free = max(1, cores - engines)
        found = []
        for kind in KINDS:
            grid = _grid(kind, config)
            drawn_s, received_s = kind.draw_ms / 1000, kind.receive_ms / 1000
            gpu = _gpu_rate(rates_of(device.name), grid, model, memory, engines)
            found.append(
                Rate(
                    kind.name,
                    gpu,
                    cores=free / (drawn_s + received_s),
                    media_workers=number * workers / drawn_s,
                    api_processes=number / received_s,
                    cores_wanted=None if gpu is None else engines + math.ceil(gpu * (drawn_s + received_s)),
                )
            )
        return FrontEnd(cores, number, workers, tuple(found))

    if flags.keeps_responses:  # which one process keeps for itself
        return with_processes(1)
    if flags.api_server_count is not None:
        return with_processes(flags.api_server_count)
    needed = [
        math.ceil(min(rate.gpu, rate.cores) / (_BUSY * rate.api_processes))
        for rate in with_processes(1).rates
        if rate.gpu is not None
    ]
    return with_processes(max([engines, *needed]))  # vLLM itself starts one for each engine


def _grid(kind: PictureKind, config: ServeConfig) -> CropGrid:
    """How the crops of such a picture lie, which is alone in its request."""
    num_crops = config.crop_policy.limit(1).num_crops(kind.width, kind.height)
    return crop_grid(kind.width, kind.height, num_crops)


def _gpu_rate(
    rates: Rates | None, grid: CropGrid, model: Dimensions, memory: MemoryPlan | None, engines: int
) -> float | None:
    """Pictures a second that the GPUs take at best, with as many in flight as the KV cache holds."""
    if rates is None or memory is None:
        return None
    sequences = max(1, memory.pictures_at_once)
    weights_bytes = model.linear_params * WEIGHTS_BITS[memory.weights] / 8
    one = limit(
        rates,
        grid.rows * grid.columns + 1,
        grid.num_image_tokens + QUESTION_TOKENS,
        sequences,
        Work(model, weights_bytes, memory.kv_bytes_per_token),
    )
    return engines * requests_per_s(one, ANSWER_TOKENS, sequences)


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _shown(cell: float | str | None) -> str:
    if cell is None or isinstance(cell, str):
        return cell or "not known"
    return f"{cell:.1f}" if cell < 10 else f"{cell:,.0f}"
