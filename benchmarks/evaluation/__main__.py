"""`make eval DATA=...`: what a server's answers to a data set are worth.

Reads a data set from disk, asks any OpenAI-compatible server, and judges the answers by the metrics that the
data set is published with. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from phi_vision.batch.concurrency import HIGHEST, ConcurrencyLimit
from phi_vision.cli.terminal import exit_on_signals, print_status
from phi_vision.client.text import visible
from phi_vision.errors import PhiVisionError, UsageError


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="make eval",
        usage="%(prog)s [options] DATA [-- FLAGS]",
        epilog="FLAGS are of `phi-vision serve`: a server is started with them, and asked.",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    found.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a .jsonl file, the annotations of OCRBench, TextVQA, DocVQA or ChartQA, or a folder with one "
        "of them",
    )
    found.add_argument(
        "--images", type=Path, metavar="DIR", help="where the pictures are; default beside DATA"
    )
    found.add_argument(
        "--base-url",
        metavar="URL",
        help="a running server, with its /v1; default as for `phi-vision predict`: $OPENAI_BASE_URL, one on "
        "the default port, or an own engine",
    )
    found.add_argument(
        "--against",
        metavar="URL|DIR",
        help="another server, or the folder of an evaluation of one: compared question by question",
    )
    found.add_argument(
        "--model",
        metavar="NAME",
        help="at the server of --base-url; default by its task presets, or its first",
    )
    found.add_argument(
        "--limit", type=_positive, metavar="N", help="a random sample of N questions, the same every time"
    )
    found.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for answers and results; default evaluations/ and the name of DATA",
    )
    found.add_argument(
        "--concurrency",
        type=_positive,
        metavar="N",
        help="questions at a time; default as many as the server answers faster for",
    )
    return found


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        The exit code: 0, 1 where questions failed, 2 when the user can mend what is wrong, else 3.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours = given.index("--") if "--" in given else len(given)
    options = parser().parse_args(given[:ours])
    options.flags = given[ours + 1 :]
    try:
        with exit_on_signals():
            return _main(options)
    except (KeyboardInterrupt, SystemExit) as end:
        print_status("stopped; run the same command again to go on")
        return 130 if isinstance(end, KeyboardInterrupt) else int(end.code or 0)
    except PhiVisionError as error:
        print(visible(f"make eval: {error}"), file=sys.stderr)
        return error.exit_code


def _main(options: argparse.Namespace) -> int:
    # Here, so that --help is quick.
    from benchmarks.evaluation import datasets
    from benchmarks.evaluation.run import evaluate
    from benchmarks.evaluation.servers import Asked

    if (options.concurrency or 1) > HIGHEST:
        raise UsageError(f"--concurrency: at most {HIGHEST}")
    data = datasets.read(options.data, options.images, options.limit)
    asked = Asked(options.base_url, options.flags, options.model)
    against = options.against
    if against is not None:
        against = Asked(against) if against.startswith(("http://", "https://")) else Path(against)
    out = options.out or Path("evaluations", data.name)
    limit = ConcurrencyLimit.auto() if options.concurrency is None else ConcurrencyLimit(options.concurrency)
    return evaluate(data, out, asked, against, limit)


if __name__ == "__main__":
    sys.exit(main())
