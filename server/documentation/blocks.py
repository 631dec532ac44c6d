"""The generated blocks that are made from the code. Those made from committed results are in `results`.

The name of a block is a function of either module and its arguments: `options plan` is `options("plan")`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import cache
from typing import Any

from phi_vision.cli import main as command_line
from phi_vision.config import ServeConfig
from phi_vision.documents.orientation import LOOK_CROPS, LOOK_TOKENS
from phi_vision.documents.reader import RETRY_TEMPERATURE
from phi_vision.documents.readings import LOW_CONFIDENCE, LOW_CONFIDENCE_SHORT, SHORT_TOKENS
from phi_vision.documents.ways import CLOSER, MAX_TILES
from phi_vision.limits import Limits
from phi_vision.model.geometry import num_image_tokens
from phi_vision.replicas.settings import ReplicaSettings
from phi_vision.serving.metrics import DECLARED
from phi_vision.settings import flags
from phi_vision.tasks.presets import PRESETS

from documentation.tables import table

GPUS = ("l4", "a10", "4090", "a100-40", "a100-80", "h100", "h200")


def options(command: str, group: str = "options") -> str:
    """The options of a command, those of one group of its `--help`."""
    top = command_line.parser()
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    groups = {each.title: each._group_actions for each in commands.choices[command]._action_groups}
    settings = (flag for kind in (ServeConfig, Limits, ReplicaSettings) for flag in flags(kind))
    bounds = {flag.name: flag.bounds for flag in settings if flag.bounds}
    rows = []
    for action in groups[group]:
        if not isinstance(action, argparse._HelpAction):
            name = action.option_strings[0]
            values = () if action.nargs == 0 else action.choices or (action.metavar,)
            meaning = re.sub(r" ?\(default: %\(default\)s\)$", "", str(action.help))
            limits = "{:,} to {:,}".format(*bounds[name]) if name in bounds else ""
            rows.append((_option(name, values), _default(action.default), limits, _escaped(meaning)))
    return table("option | default | from, to | meaning", rows)


def _option(name: str, values: Iterable[str]) -> str:
    return f"`{name} {'|'.join(values)}".strip().replace("|", r"\|") + "`"


def _default(value: Any) -> str:
    return "" if value in (None, "", False) else f"`{value}`"


def _escaped(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", text)


def plan(gpu: str) -> str:
    """What `phi-vision plan --gpu GPU --cores 16` prints."""
    arguments = ("plan", "--gpu", gpu, "--cores", "16")
    return f"```console\n$ phi-vision {' '.join(arguments)}\n{_run(*arguments).strip()}\n```"


def gpus() -> str:
    """What is chosen for each GPU by default."""
    rows = []
    for gpu in GPUS:
        body = _plan_json(gpu)
        device, chosen = body["device"], body["plans"][body["chosen"]]
        name, memory = device["name"].removeprefix("NVIDIA "), f"{device['memory_bytes'] / 2**30:.0f} GiB"
        holds = (f"`{chosen['profile']}`", chosen["weights"], _short(chosen["kv_dtype"]))
        rows.append((name, memory, *holds, f"{chosen['max_model_len']:,}", chosen["pictures_at_once"]))
    return table("GPU | memory | profile | weights | KV cache | context | pictures at once", rows)


def contexts() -> str:
    """The longest context of each choice of weights and KV cache on each GPU, in tokens."""
    plans = {gpu: [p for p in _plan_json(gpu)["plans"] if p["profile"] != "faithful"] for gpu in GPUS}
    head = [f"{p['weights']}, {_short(p['kv_dtype'])}" for p in plans[GPUS[0]]]
    rows = [[gpu, *(f"{p['longest_context']:,}" for p in found)] for gpu, found in plans.items()]
    return table(" | ".join(["GPU", *head]), rows)


def tasks() -> str:
    """The presets."""
    rows = [
        (
            f"`{name}`",
            p.description,
            p.prompt or "refused: a question is needed",
            f"{p.fields['max_tokens']:,}",
        )
        for name, p in PRESETS.items()
    ]
    return table("task | what it does | prompt, where the message has no text | `max_tokens`", rows)


def metrics() -> str:
    """What is counted beside vLLM's own metrics."""
    rows = [
        (
            f"`{metric.name}`",
            metric.kind,
            "<br>".join(f"`{label}`: {', '.join(values)}" for label, values in metric.labels.items()),
            metric.help,
        )
        for metric in DECLARED
    ]
    return table("metric | kind | labels | what it counts", rows)


def picture_tokens() -> str:
    """Tokens of pictures of a few sizes by the number of crops."""
    rows = [
        (f"{width} x {height}", *(f"{num_image_tokens(width, height, crops):,}" for crops in (16, 4, 1)))
        for width, height in ((800, 600), (1920, 1080), (336, 336))
    ]
    return table("picture | 16 crops | 4 crops | 1 crop (`low`)", rows)


def reading() -> str:
    """The bounds of reading a page."""
    rows = [
        ("confidence below which a page is in doubt", LOW_CONFIDENCE),
        (f"the same, of fewer than {SHORT_TOKENS} tokens", LOW_CONFIDENCE_SHORT),
        ("tokens of a look", LOOK_TOKENS),
        ("crops of a look", LOOK_CROPS),
        ("tiles at most", MAX_TILES),
        ("how much larger print is in the tiles of a page in doubt, at most", CLOSER),
        ("temperature that is added", RETRY_TEMPERATURE),
    ]
    return table("bound | value", rows)


def _run(*arguments: str) -> str:
    """What a `phi-vision` command prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        command_line.main(arguments)
    return printed.getvalue()


@cache
def _plan_json(gpu: str) -> Any:
    return json.loads(_run("plan", "--gpu", gpu, "--json"))


def _short(kv_dtype: str) -> str:
    return kv_dtype.removesuffix("_per_token_head")
