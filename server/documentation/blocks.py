"""The generated blocks: each is made from the code or from a committed result, never written by hand.

A block's name is a function of this module and its arguments: `options plan` is `options("plan")`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from demo_training.exam import table as exam_table
from phi_vision.cli import main as command_line
from phi_vision.model.geometry import num_image_tokens
from phi_vision.tasks.presets import PRESETS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
GPUS = ("l4", "a10", "4090", "a100-40", "a100-80", "h100", "h200")


def block(name: str) -> str:
    """The Markdown of a block, without a newline at its end.

    Raises:
        KeyError: there is no such block.
    """
    kind, *arguments = name.split()
    return _BLOCKS[kind](*arguments).strip("\n")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns whose every cell is a number are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [all(row[i][:1].isdigit() for row in cells) for i in range(len(head))]
    rule = "|" + "|".join("---:" if right else "---" for right in numeric) + "|"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in cells)])


def options(command: str) -> str:
    """The options of a command: name and unit, default, meaning."""
    rows = []
    for action in _parser(command)._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else "|".join(action.choices or [str(action.metavar)])
        flag = f"`{' '.join(filter(None, [action.option_strings[0], value]))}`".replace("|", "\\|")
        default = "" if action.default in (None, "", False) else f"`{action.default}`"
        meaning = re.sub(r" ?\(default: %\(default\)s\)$", "", str(action.help))
        meaning = re.sub(r"([|*<])", r"\\\1", meaning)
        rows.append((flag, default, meaning))
    return markdown_table(("option", "default", "meaning"), rows)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = command_line.parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


def plan(gpu: str) -> str:
    """What `phi-vision plan --gpu GPU` prints."""
    return f"```console\n$ phi-vision plan --gpu {gpu}\n{_run('plan', '--gpu', gpu).strip()}\n```"


def gpus() -> str:
    """What is chosen for each GPU by default."""
    rows = []
    for gpu in GPUS:
        body = json.loads(_run("plan", "--gpu", gpu, "--json"))
        chosen = body["plans"][body["chosen"]]
        rows.append(
            (
                body["device"]["name"].removeprefix("NVIDIA "),
                f"{body['device']['memory_bytes'] / 2**30:.0f} GiB",
                f"`{chosen['profile']}`",
                chosen["weights"],
                _short(chosen["kv_dtype"]),
                f"{chosen['max_model_len']:,}",
                chosen["pictures_at_once"],
            )
        )
    return markdown_table(
        ("GPU", "memory", "profile", "weights", "KV cache", "context", "pictures at once"), rows
    )


def contexts() -> str:
    """The longest context of each choice of weights and KV cache on each GPU, in tokens."""
    plans = {
        gpu: [
            p for p in json.loads(_run("plan", "--gpu", gpu, "--json"))["plans"] if p["profile"] != "faithful"
        ]
        for gpu in GPUS
    }
    head = [f"{p['weights']}, {_short(p['kv_dtype'])}" for p in plans[GPUS[0]]]
    rows = [[gpu, *(f"{p['longest_context']:,}" for p in found)] for gpu, found in plans.items()]
    return markdown_table(["GPU", *head], rows)


def _short(kv_dtype: str) -> str:
    return kv_dtype.removesuffix("_per_token_head")


def _run(*arguments: str) -> str:
    """What a `phi-vision` command prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        command_line.main(arguments)
    return printed.getvalue()


def tasks() -> str:
    """The presets."""
    rows = [
        (
            f"`{name}`",
            preset.description,
            preset.prompt or "refused: a question is needed",
            f"{preset.max_tokens:,}",
        )
        for name, preset in PRESETS.items()
    ]
    return markdown_table(
        ("task", "what it does", "prompt, where the message has no text", "`max_tokens`"), rows
    )


def picture_tokens() -> str:
    """Tokens of pictures of a few sizes by the number of crops."""
    rows = [
        (f"{width} x {height}", *(f"{num_image_tokens(width, height, crops):,}" for crops in (16, 4, 1)))
        for width, height in ((800, 600), (1920, 1080), (336, 336))
    ]
    return markdown_table(("picture", "16 crops", "4 crops", "1 crop (`low`)"), rows)


def benchmark(folder: str) -> str:
    """The cells of a committed run of `make bench`."""
    from summary import markdown_table as benchmark_table

    return str(benchmark_table(_result(f"{folder}/result.json")))


def image_path(folder: str) -> str:
    """The picture path of a committed run beside the published processor's float path."""
    rows = [
        (
            stage["picture"],
            f"{stage['ours_ms']:.1f}",
            f"{stage['reference_ms']:.1f}",
            f"{stage['ours_bytes'] / 1e6:.1f}",
            f"{stage['reference_bytes'] / 1e6:.1f}",
        )
        for stage in _result(f"{folder}/result.json")["image_path"]["pictures"]
    ]
    return markdown_table(("picture", "ours, ms", "float, ms", "ours, MB", "float, MB"), rows)


def kv_quantization() -> str:
    """Errors of the quantized KV caches."""
    errors = _result("kv_quantization.json")["errors"]
    rows = [
        [
            name,
            *(
                f"{errors[keys][name][f'{of}_percent']:.2f} %"
                for keys in errors
                for of in ("keys", "attention")
            ),
        ]
        for name in errors["gaussian"]
    ]
    head = ("KV cache", "keys, values", "attention", "keys with outliers", "attention, outlier keys")
    return markdown_table(head, rows)


def demo_exam() -> str:
    """How often the demo model is right."""
    return exam_table(_result("demo_exam.json")["parts"])


def _result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


_BLOCKS: dict[str, Callable[..., str]] = {
    **{
        f.__name__.replace("_", "-"): f
        for f in (
            options,
            plan,
            gpus,
            contexts,
            tasks,
            picture_tokens,
            benchmark,
            image_path,
            kv_quantization,
            demo_exam,
        )
    },
}
