"""The `phi-vision` command. Imports nothing heavy until a command runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence

from phi_vision.batch.concurrency import HIGHEST
from phi_vision.batch.output import FORMATS
from phi_vision.batch.run_settings import DEFAULT_TASK
from phi_vision.cli.plan import DOCTOR_SETTINGS, SETTINGS, show_plan
from phi_vision.client.text import visible
from phi_vision.config import DEVICES, ServeConfig
from phi_vision.errors import PhiVisionError
from phi_vision.limits import Limits, split_list
from phi_vision.planning.engine_flags import with_dashes
from phi_vision.planning.gpus import GPU_NAMES
from phi_vision.replicas.settings import ReplicaSettings
from phi_vision.settings import Flag, flags
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks.presets import PRESETS


def parser() -> argparse.ArgumentParser:
    """The whole command line; `--help` and the README are made from it."""
    top = argparse.ArgumentParser(prog="phi-vision", description="Self-host Phi-3.5-vision on vLLM.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve the model behind an OpenAI-compatible API",
        description="Serve the model behind an OpenAI-compatible API.",
        epilog="Any other flag goes to `vllm serve` as it is, and wins over ours.",
        allow_abbrev=False,
    )
    serve.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would run, vLLM's command line and environment included, and start nothing",
    )
    _add_flags(serve, flags(ServeConfig))
    _add_flags(serve.add_argument_group("limits"), flags(Limits))

    replicas = commands.add_parser(
        "replicas",
        help="several servers on this machine, a GPU each, behind HAProxy",
        description="Several servers on this machine, a GPU each or a part of the CPU, behind HAProxy. A "
        "server that ends or hangs is started again; meanwhile the others answer.",
        epilog="All flags of `phi-vision serve`, and vLLM's, go to each server.",
        allow_abbrev=False,
    )
    _add_flags(replicas, flags(ReplicaSettings))
    _add_flags(replicas.add_argument_group("of each server"), flags(ServeConfig))
    _add_flags(replicas.add_argument_group("limits of each server"), flags(Limits))

    plan = commands.add_parser(
        "plan",
        help="show what fits into the memory of this machine's device or of a named GPU",
        description="Show what fits into the memory of this machine's device or of a named GPU, and how many "
        "pictures a second its cores and the GPU take at most.",
        allow_abbrev=False,
    )
    plan.add_argument("--gpu", choices=GPU_NAMES, help="a GPU by name; it need not be in this machine")
    plan.add_argument("--vram", type=float, metavar="GIB", help="a GPU by its memory, with --capability")
    plan.add_argument("--capability", metavar="X.Y", help="its CUDA compute capability, for example 8.6")
    plan.add_argument(
        "--cores",
        type=_positive,
        metavar="N",
        help="cores beside the GPU; default this machine's",
    )
    plan.add_argument(
        "--model",
        default=PHI_3_5_VISION.hub_id,
        metavar="ID|PATH",
        help="'demo', a hub id or a folder (default: %(default)s)",
    )
    _add_flags(plan, [flag for flag in flags(ServeConfig) if flag.field in SETTINGS])
    plan.add_argument("--json", action="store_true", help="all terms in bytes, for machines")

    predict = commands.add_parser(
        "predict",
        help="run one task on pictures, through a running server or an engine of its own",
        description="Run one task on pictures, through a running server or an engine of its own.",
        allow_abbrev=False,
    )
    predict.add_argument(
        "--image",
        action="append",
        required=True,
        metavar="PATH_OR_URL",
        help="a picture, repeat for several; or a PDF or multi-page TIFF, which is read page by page",
    )
    predict.add_argument(
        "--pages",
        metavar="LIST",
        help=f"pages of a document, as in 1-3,7; default: all, of {Limits.max_pages} at most",
    )
    predict.add_argument(
        "--task",
        choices=tuple(PRESETS),
        default="caption",
        help="what to do with the pictures (default: %(default)s)",
    )
    predict.add_argument(
        "--prompt", metavar="TEXT", help="the question (vqa), or instead of the preset's prompt"
    )
    predict.add_argument("--output", metavar="FILE", help="write here instead of to the terminal")
    predict.add_argument(
        "--format",
        choices=("txt", "json"),
        default="txt",
        help="the answer alone, or with usage and model (default: %(default)s)",
    )
    predict.add_argument(
        "--device", choices=DEVICES, default="auto", help="for an engine of its own (default: %(default)s)"
    )
    predict.add_argument(
        "--base-url",
        metavar="URL",
        help="a running server; default $OPENAI_BASE_URL, else one on the default port, which gets no "
        "$OPENAI_API_KEY, else an own engine",
    )
    _add_batch(commands)
    _add_doctor(commands)
    return top


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    batch = commands.add_parser(
        "batch",
        help="run one task on many files, durably, through any number of servers",
        description="Run one task on many files, or the requests of OpenAI batch files. A run that was "
        "interrupted, however it was, goes on where it was.",
        allow_abbrev=False,
    )
    batch.add_argument(
        "input",
        nargs="*",
        metavar="INPUT",
        help="pictures, PDF and TIFF files, folders, globs, addresses, .txt files that list them, .csv and "
        ".parquet files with a column of them; or OpenAI batch files (.jsonl); none: only what DIR holds",
    )
    batch.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the results and the state of the run"
    )
    batch.add_argument(
        "--task",
        choices=tuple(PRESETS),
        help=f"what to do with each picture and page; default {DEFAULT_TASK}",
    )
    batch.add_argument(
        "--prompt", metavar="TEXT", help="the question (vqa), or instead of the preset's prompt"
    )
    batch.add_argument("--schema", metavar="FILE", help="JSON schema that each answer follows")
    batch.add_argument(
        "--format",
        action="append",
        type=_formats,
        metavar="LIST",
        help=f"of the results, with commas: {', '.join(FORMATS)}; default {FORMATS[0]}",
    )
    batch.add_argument(
        "--column", metavar="NAME", help="of .csv and .parquet files; default the only one that they have"
    )
    batch.add_argument(
        "--base-url",
        action="append",
        metavar="URL",
        help="a running server, repeat for several; default as for predict",
    )
    batch.add_argument(
        "--concurrency",
        type=_concurrency,
        metavar="auto|N",
        help="requests at a time; default auto: as many as the servers answer faster for",
    )
    batch.add_argument(
        "--max-errors",
        type=_positive,
        metavar="N",
        help="failed items that end the run early; default no number",
    )
    batch.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in DIR; where it holds one, that is done without this flag",
    )
    batch.add_argument("--retry-failed", action="store_true", help="ask again for what failed")
    batch.add_argument(
        "--device", choices=DEVICES, default="auto", help="for an engine of its own (default: %(default)s)"
    )
    batch.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="have a Ray cluster read the files and ask: HOST:PORT of its head, 'auto' for the one of this "
        "machine, 'local' for one that ends with the run; without --base-url it starts servers of its own",
    )
    batch.add_argument(
        "--ray-servers",
        type=_positive,
        metavar="N",
        help="servers that the cluster starts; default one for each of its GPUs",
    )


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="look at everything that a server depends on here, and say what to do where it fails",
        description="Look at everything that a server depends on here, and say what to do where it fails.",
        allow_abbrev=False,
    )
    _add_flags(doctor, [flag for flag in flags(ServeConfig) if flag.field in DOCTOR_SETTINGS])
    doctor.add_argument(
        "--quick",
        action="store_true",
        help="in seconds: without reading the weights, loading vLLM and having the demo answer",
    )
    doctor.add_argument("--json", action="store_true", help="a list of findings, for machines")


def _formats(text: str) -> list[str]:
    names = split_list(text)
    if not names or not set(names) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(FORMATS)}")
    return names


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _concurrency(text: str) -> int | None:
    """None for `auto`."""
    if text == "auto":
        return None
    number = _positive(text)
    if number > HIGHEST:
        raise argparse.ArgumentTypeError(f"at most {HIGHEST}")
    return number


def _add_flags(command: argparse._ActionsContainer, settings: Iterable[Flag]) -> None:
    for flag in settings:
        if flag.parse is bool:
            command.add_argument(flag.name, action="store_true", default=flag.default, help=flag.help_text)
            continue
        default = "" if flag.default in (None, "") else " (default: %(default)s)"
        command.add_argument(
            flag.name,
            type=flag.parse,
            default=flag.default,
            choices=flag.choices,
            metavar=flag.unit or None,
            help=flag.help_text + default,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 2 when the user can mend what is wrong, else 3; 1 as `batch` and `doctor` say.
    """
    top = parser()
    options, rest = top.parse_known_args(with_dashes(sys.argv[1:] if arguments is None else arguments))
    if rest and options.command not in ("serve", "replicas"):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    code = 0
    try:
        if options.command == "serve":
            from phi_vision.cli.serve import serve, show_launch

            config = ServeConfig.from_flags(options, rest)
            show_launch(config) if options.dry_run else serve(config)
        elif options.command == "replicas":
            from phi_vision.cli.replicas import replicas

            replicas(ServeConfig.from_flags(options, rest), ReplicaSettings.from_flags(options))
        elif options.command == "plan":
            show_plan(options)
        elif options.command == "predict":
            from phi_vision.cli.predict import predict

            predict(options)
        elif options.command == "doctor":
            from phi_vision.cli.doctor import doctor

            code = doctor(options)
        else:
            from phi_vision.cli.batch import batch

            code = batch(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head`; nobody reads what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE  # as a shell has it
    except PhiVisionError as error:
        print(visible(f"phi-vision {options.command}: {error}"), file=sys.stderr)
        return error.exit_code
    return code
