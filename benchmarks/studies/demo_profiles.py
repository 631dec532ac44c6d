"""What each precision that a CPU has costs the demo in answers: its exam, asked with each, and compared.

python -m benchmarks.studies.demo_profiles --output benchmarks/results/eval_demo.json

The first is asked twice: bfloat16 rounds otherwise in another batch, so that a server differs from itself. A
run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo_training import exam
from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.client.output import write_whole

from benchmarks.evaluation import datasets
from benchmarks.evaluation.answers import collect
from benchmarks.evaluation.paired import compare
from benchmarks.evaluation.run import judged_answers
from benchmarks.evaluation.scores import CONFIDENCE, RESAMPLES, Judged, scores
from benchmarks.evaluation.servers import Asked
from benchmarks.harness.machine import describe_machine, git_state, installed_versions, now

PROFILES = {
    "bf16": (),
    "bf16 again": (),
    "fp8 KV": ("--kv-cache-dtype", "fp8"),
    "float32": ("--dtype", "float32"),
}


def measure(folder: Path, count: int, limit: int | None, concurrency: int) -> dict[str, Any]:
    """Ask each profile the exam, or a sample of it, in `folder`, and compare each with the first."""
    data = datasets.read(exam.write(folder / "exam", count), limit=limit)
    rows: list[dict[str, Any]] = []
    first: list[Judged] = []
    for name, flags in PROFILES.items():
        asked = Asked(flags=["--model", "demo", *flags])
        answers = collect(
            folder / name.lower().replace(" ", "-"), data.questions, asked, ConcurrencyLimit(concurrency)
        )
        judged = judged_answers(data.questions, answers)
        first = first or judged
        rows.append(
            {
                "profile": name,
                "server": answers.server,
                "plan": (answers.plan or {}).get("plan"),
                "counts": answers.counts,
                "scores": [asdict(score) for score in scores(judged)],
                "paired": [asdict(row) for row in compare(judged, first)] if rows else [],
                "changed": _changed(judged, first),
            }
        )
    return {
        "machine": describe_machine(),
        "versions": installed_versions(),
        "git": git_state(),
        "written": now(),
        "questions": len(data.questions),
        "of": data.size,
        "concurrency": concurrency,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "profiles": rows,
    }


def _changed(judged: Sequence[Judged], first: Sequence[Judged]) -> list[list[str]]:
    """Question, right answer, the first profile's and this one's, where the two say something else."""
    before = {each.question.key: each.answer for each in first}
    return [
        [each.question.key, each.question.answers[0], before[each.question.key], each.answer]
        for each in judged
        if each.question.key in before and before[each.question.key] != each.answer
    ]


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("evaluations/demo"), help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=60, help="pictures a part (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="a sample of so many questions (default: all)")
    parser.add_argument(
        "--concurrency", type=int, default=8, help="questions at a time (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    write_whole(
        args.output,
        json.dumps(measure(args.runs, args.count, args.limit, args.concurrency), indent=None) + "\n",
    )


if __name__ == "__main__":
    main()
