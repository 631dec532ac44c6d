"""The generated blocks: each is made from the code or from a committed result, never written by hand.

The name of a block is a function of this module and its arguments: `options plan` is `options("plan")`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from demo_training.exam import table as exam_table
from phi_vision.cli import main as command_line
from phi_vision.config import ServeConfig
from phi_vision.documents.orientation import LOOK_CROPS, LOOK_TOKENS
from phi_vision.documents.reader import CLOSER, MAX_TILES, RETRY_TEMPERATURE
from phi_vision.documents.readings import LOW_CONFIDENCE, LOW_CONFIDENCE_SHORT, SHORT_TOKENS
from phi_vision.limits import Limits
from phi_vision.model.geometry import num_image_tokens
from phi_vision.settings import flags
from phi_vision.tasks.presets import PRESETS

ROOT = Path(__file__).parents[2]
GPUS = ("l4", "a10", "4090", "a100-40", "a100-80", "h100", "h200")


def options(command: str, group: str = "options") -> str:
    """The options of a command, those of one group of its `--help`."""
    top = command_line.parser()
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    groups = {each.title: each._group_actions for each in commands.choices[command]._action_groups}
    bounds = {flag.name: flag.bounds for kind in (ServeConfig, Limits) for flag in flags(kind) if flag.bounds}
    rows = []
    for action in groups[group]:
        if not isinstance(action, argparse._HelpAction):
            name = action.option_strings[0]
            values = () if action.nargs == 0 else action.choices or (action.metavar,)
            meaning = re.sub(r" ?\(default: %\(default\)s\)$", "", str(action.help))
            limits = "{:,} to {:,}".format(*bounds[name]) if name in bounds else ""
            rows.append((_option(name, values), _default(action.default), limits, _escaped(meaning)))
    return _table("option | default | from, to | meaning", rows)


def _option(name: str, values: Iterable[str]) -> str:
    return f"`{name} {'|'.join(values)}".strip().replace("|", r"\|") + "`"


def _default(value: Any) -> str:
    return "" if value in (None, "", False) else f"`{value}`"


def _escaped(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", text)


def plan(gpu: str) -> str:
    """What `phi-vision plan --gpu GPU` prints."""
    return f"```console\n$ phi-vision plan --gpu {gpu}\n{_run('plan', '--gpu', gpu).strip()}\n```"


def gpus() -> str:
    """What is chosen for each GPU by default."""
    rows = []
    for gpu in GPUS:
        body = _plan_json(gpu)
        device, chosen = body["device"], body["plans"][body["chosen"]]
        name, memory = device["name"].removeprefix("NVIDIA "), f"{device['memory_bytes'] / 2**30:.0f} GiB"
        holds = (f"`{chosen['profile']}`", chosen["weights"], _short(chosen["kv_dtype"]))
        rows.append((name, memory, *holds, f"{chosen['max_model_len']:,}", chosen["pictures_at_once"]))
    return _table("GPU | memory | profile | weights | KV cache | context | pictures at once", rows)


def contexts() -> str:
    """The longest context of each choice of weights and KV cache on each GPU, in tokens."""
    plans = {gpu: [p for p in _plan_json(gpu)["plans"] if p["profile"] != "faithful"] for gpu in GPUS}
    head = [f"{p['weights']}, {_short(p['kv_dtype'])}" for p in plans[GPUS[0]]]
    rows = [[gpu, *(f"{p['longest_context']:,}" for p in found)] for gpu, found in plans.items()]
    return _table(" | ".join(["GPU", *head]), rows)


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
    return _table("task | what it does | prompt, where the message has no text | `max_tokens`", rows)


def picture_tokens() -> str:
    """Tokens of pictures of a few sizes by the number of crops."""
    rows = [
        (f"{width} x {height}", *(f"{num_image_tokens(width, height, crops):,}" for crops in (16, 4, 1)))
        for width, height in ((800, 600), (1920, 1080), (336, 336))
    ]
    return _table("picture | 16 crops | 4 crops | 1 crop (`low`)", rows)


def benchmark(folder: str) -> str:
    """The cells of a committed run of `make bench`."""
    from benchmarks.harness.summary import markdown_table

    return str(markdown_table(_result(f"{folder}/result.json")))


def ratios(folder: str) -> str:
    """Ours against the other server of a committed run: median of the rounds, their lowest and highest."""
    figures = ("requests_per_s", "ttft_p50_ms", "e2e_p50_ms")
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for ratio in _result(f"{folder}/result.json")["ratios"]:
        spread = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        load = f"{ratio['concurrency']} at a time"
        cells.setdefault((ratio["workload"], load), {})[ratio["figure"]] = spread
    rows = [(*cell, *(found[figure] for figure in figures)) for cell, found in cells.items()]
    return _table("workload | load | requests a second | time to first token | whole request", rows)


def image_path(folder: str) -> str:
    """The picture path of a committed run beside the published processor's float path."""
    rows = []
    for stage in _result(f"{folder}/result.json")["image_path"]["pictures"]:
        times = (f"{stage[key]:.1f}" for key in ("ours_ms", "reference_ms"))
        sizes = (f"{stage[key] / 1e6:.1f}" for key in ("ours_bytes", "reference_bytes"))
        rows.append((stage["picture"], *times, *sizes))
    return _table("picture | ours, ms | float, ms | ours, MB | float, MB", rows)


def kv_quantization() -> str:
    """Errors of the quantized KV caches."""
    errors = _result("kv_quantization.json")["errors"]
    columns = [(keys, f"{of}_percent") for keys in errors for of in ("keys", "attention")]
    rows = [
        (dtype, *(f"{errors[keys][dtype][of]:.2f} %" for keys, of in columns)) for dtype in errors["gaussian"]
    ]
    return _table("KV cache | keys, values | attention | keys with outliers | attention, outlier keys", rows)


def front_end() -> str:
    """Pictures a second through the front end: ours, the version before, and stock vLLM."""
    rates = {
        (row["picture"], row["workers"], row["front_end"]): row for row in _result("front_end.json")["speed"]
    }
    rows = []
    for picture, workers in dict.fromkeys(key[:2] for key in rates):
        found = [rates[picture, workers, name] for name in ("ours", "before", "stock")]
        speeds = [f"{row['pictures_per_s']:.1f}" for row in found]
        rows.append((workers, picture, *speeds, f"{found[0]['share_of_ideal']:.0%}"))
    return _table("workers | picture | ours, a second | before | stock vLLM | ours, of the ideal", rows)


def reading() -> str:
    """The bounds of reading a page."""
    rows = [
        ("confidence below which a page is in doubt", LOW_CONFIDENCE),
        (f"the same, of fewer than {SHORT_TOKENS} tokens", LOW_CONFIDENCE_SHORT),
        ("tokens of a look", LOOK_TOKENS),
        ("crops of a look", LOOK_CROPS),
        ("tiles at most", MAX_TILES),
        ("how much larger print is in the tiles of a page in doubt", CLOSER),
        ("temperature that is added", RETRY_TEMPERATURE),
    ]
    return _table("bound | value", rows)


def documents(part: str) -> str:
    """How the demo reads pages: `rotation`, `tiles` or `confidence`."""
    summary = _result("documents.json")["summary"]
    rows: list[Sequence[Any]]
    match part:
        case "rotation":
            rows = [
                (
                    lies,
                    row["pages"],
                    f"{row['end_upright']:.1%}",
                    f"{row['character_errors']:.1%}",
                    f"{row['tried_again']:.0%}",
                    f"{row['tokens']:,.0f}",
                    f"{row['tokens_of_one_reading']:,.0f}",
                )
                for lies, row in summary["rotation"].items()
            ]
            head = (
                "page lies | pages | end upright | character errors | tried again | tokens | of one reading"
            )
        case "tiles":
            rows = [
                (
                    {"whole": "whole, 16 crops", "tiles": "by default"}[way],
                    f"{row['tiles']:.1f}",
                    f"{row['character_errors']:.1%}",
                    f"{row['requests']:.1f}",
                    f"{row['prompt_tokens']:,.0f}",
                    f"{row['completion_tokens']:,.0f}",
                    f"{row['seconds']:.1f}",
                )
                for way, row in summary["tiles"].items()
            ]
            head = "read | tiles | character errors | requests | prompt tokens | answer tokens | seconds"
        case _:
            rows = [
                (
                    f"{row['from']:.2f} to {row['to']:.2f}",
                    row["count"],
                    f"{row['confidence']:.3f}",
                    f"{row['right']:.3f}",
                )
                for row in summary["words"]
            ]
            head = "confidence | words | mean | share right"
    return _table(head, rows)


def layout_blank() -> str:
    """How often drawn pages are found blank, by the dirt on them."""
    found = _result("layout.json")
    of = found["pages_a_row"]
    rows = [
        (dirt, *(f"{counts[f'{kind}_found_blank']} of {of}" for kind in ("blank", "one_line")))
        for dirt, counts in found["blank"].items()
    ]
    return _table("dirt | blank pages found blank | pages with one line found blank", rows)


def layout_print() -> str:
    """Errors of the height of small letters, and of the axis of text, by the kind of page."""
    found = _result("layout.json")
    rows = [
        (
            kind,
            f"{row['median_error']:+.1%}",
            f"{row['worst_error']:.1%}",
            row["axis_right"],
            row["found_blank"],
        )
        for kind, row in found["print"].items()
    ]
    head = "page | height of small letters, median error | worst | axis right, of {} | found blank"
    return _table(head.format(found["pages_a_row"]), rows)


def layout_tiles() -> str:
    """Lines that tiles part and lose, by how much the page slants."""
    keys = ("pages", "tiles", "lines", "parted", "lost")
    totals: dict[float, dict[str, int]] = {}
    for row in _result("layout.json")["tiles"]:
        total = totals.setdefault(row["skew_degrees"], dict.fromkeys(keys, 0))
        for key in keys:
            total[key] += row[key]
    rows = [(f"{skew:g} degrees", *(f"{total[key]:,}" for key in keys)) for skew, total in totals.items()]
    return _table("slant | pages | tiles | lines | parted by a cut | lost", rows)


def loops_pages() -> str:
    """How many real pages the loop guard cuts."""
    found = _result("loops.json")
    rows = [
        (kind, found["pages_a_row"], f"{row['chars']:,}", row["cut"], row["microseconds_per_token"])
        for kind, row in found["pages"].items()
    ]
    return _table("page | pages | characters | cut | microseconds a token", rows)


def loops_cut() -> str:
    """How soon the loop guard cuts loops."""
    found = _result("loops.json")
    keys = ("cut", "kept_once", "lines_of_repeats_median", "lines_of_repeats_most")
    rows = [(kind, found["pages_a_row"], *map(row.get, keys)) for kind, row in found["loops"].items()]
    return _table("what repeats | loops | cut | kept once | lines of repeats, median | most", rows)


def demo_exam() -> str:
    """How often the demo model is right."""
    return exam_table(_result("demo_exam.json")["parts"])


def _table(head: str, rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table without its empty columns; those whose cells begin with a digit are aligned right."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = [column for column in zip(head.split(" | "), *cells, strict=True) if any(column[1:])]
    rule = ["---:" if all(cell[:1].isdigit() for cell in column[1:]) else "---" for column in columns]
    first, *rest = (f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))
    return "\n".join([first, f"|{'|'.join(rule)}|", *rest])


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


def _result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())
