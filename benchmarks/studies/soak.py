"""Load a server of its own with twice what it takes, good, bad and abandoned requests mixed, for minutes.

Each good request carries one of a set of distinct pictures, and its answer must be the one that the
same picture got before, alone. Prints a table, writes one JSON file, and exits 1 if anything was lost,
mixed up, answered 5xx, or if memory or file handles grew.

    python -m benchmarks.studies.soak --minutes 3 --output benchmarks/results/soak_demo_cpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
from phi_vision.client.process import ServerProcess

from benchmarks.studies._server import client_of, running_server
from tests.support.mutations import mutated_files
from tests.support.pictures import data_url, image_part, reference_picture, user

CAPACITY = 6  # requests that the server takes at a time
CLIENTS = 2 * CAPACITY
DISTINCT = 24  # pictures
MAX_GROWTH = 0.05  # of resident memory between the second third of the run and its end
MAX_NEW_HANDLES = 8
FLAGS = (
    *("--model", "demo", "--max-model-len", "16384", "--max-num-queued-reqs", str(CAPACITY)),
    *("--dtype", "float32"),  # so that the answer does not depend on which requests share a batch
)


@dataclass
class Tally:
    """What became of the requests."""

    served: int = 0
    wrong: int = 0  # another answer than alone
    refused_overload: int = 0  # 429, as declared
    bad_refused: int = 0  # 4xx, as due
    bad_served: int = 0  # damage that left a readable picture
    aborted: int = 0
    errors_5xx: int = 0
    lost: int = 0  # no answer at all
    latencies_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Size:
    """The server's processes together."""

    at_s: float
    resident_bytes: int
    handles: int
    processes: int


def main() -> int:
    """Run the soak; 0 if all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with running_server(*FLAGS) as server:
        pictures = [reference_picture(200 + 8 * i, 150 + 5 * i, seed=i) for i in range(DISTINCT)]
        client = client_of(server)
        alone = [ask(client, picture) for picture in pictures]
        tally, sizes = soak(server, pictures, alone, options.minutes * 60)
        again = [ask(client, picture) for picture in pictures]
    report = summarise(tally, sizes, options.minutes, len(set(alone)), again == alone)
    print(json.dumps(report, indent=2))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["held"] else 1


def ask(client: openai.OpenAI, picture: Any) -> str:
    """The caption of a picture; greedy."""
    answer = client.chat.completions.create(
        model="phi-3.5-vision:caption", messages=[user(image_part(picture, "low"))], max_tokens=24
    )
    return answer.choices[0].message.content or ""


def soak(
    server: ServerProcess, pictures: list[Any], alone: list[str], duration_s: float
) -> tuple[Tally, list[Size]]:
    """Clients for `duration_s` seconds, while the server's size is taken once a second."""
    tally, lock, ends_at = Tally(), threading.Lock(), time.monotonic() + duration_s
    damaged = list(mutated_files(500, seed=11))

    def run_client(number: int) -> None:
        chance = random.Random(number)
        client = client_of(server)
        while time.monotonic() < ends_at:
            kind = chance.choices(("good", "bad", "abort"), (6, 3, 1))[0]
            started = time.monotonic()
            try:
                outcome = one(kind, client, chance)
            except openai.RateLimitError:
                outcome = "refused_overload"
            except openai.InternalServerError as error:
                outcome = "errors_5xx"
                tally.examples.append(str(error)[:300])
            except Exception as error:
                outcome = "lost"
                tally.examples.append(repr(error)[:300])
            with lock:
                setattr(tally, outcome, getattr(tally, outcome) + 1)
                if outcome in ("served", "refused_overload"):
                    times = tally.latencies_s if outcome == "served" else tally.refusals_s
                    times.append(time.monotonic() - started)
            if outcome == "refused_overload":
                time.sleep(chance.uniform(0, 0.5))

    def one(kind: str, client: openai.OpenAI, chance: random.Random) -> str:
        which = chance.randrange(len(pictures))
        if kind == "good":
            answer = ask(client, pictures[which])
            if answer == alone[which]:
                return "served"
            tally.examples.append(f"{which}: {answer!r} instead of {alone[which]!r}")
            return "wrong"
        if kind == "abort":
            with client.chat.completions.create(
                model="phi-3.5-vision",
                messages=[user(image_part(pictures[which], "low"), "go on")],
                max_tokens=4000,
                stream=True,
                extra_body={"ignore_eos": True},
            ) as stream:
                for _, _chunk in zip(range(chance.randrange(1, 20)), stream, strict=False):
                    pass
            return "aborted"
        body = chance.choice(
            [
                {"url": data_url(chance.choice(damaged))},
                {"url": "http://169.254.169.254/latest/meta-data/"},
                {"url": "data:image/png;base64,@@"},
                {"url": "file:///etc/passwd"},
            ]
        )
        try:
            client.chat.completions.create(
                model="phi-3.5-vision",
                messages=[user({"type": "image_url", "image_url": {**body, "detail": "low"}}, "what?")],
                max_tokens=2,
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return "bad_refused"
        return "bad_served"

    threads = [threading.Thread(target=run_client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sizes = []
    while time.monotonic() < ends_at:
        sizes.append(size_of(server, duration_s - (ends_at - time.monotonic())))
        time.sleep(1)
    for thread in threads:
        thread.join()
    time.sleep(3)
    sizes.append(size_of(server, duration_s + 3))
    return tally, sizes


def size_of(server: ServerProcess, at_s: float) -> Size:
    """Resident memory (shared pages counted once a process) and open handles, children included."""
    resident = handles = processes = 0
    parent = psutil.Process(server.process.pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            resident += process.memory_info().rss
            handles += process.num_fds()
        except psutil.Error:  # a decoder that has just ended
            continue
        processes += 1
    return Size(round(at_s, 1), resident, handles, processes)


def summarise(
    tally: Tally, sizes: list[Size], minutes: float, distinct_answers: int, same_after: bool
) -> dict[str, Any]:
    """The figures, and whether all of it held."""
    middle = sizes[len(sizes) // 3 : 2 * len(sizes) // 3] or sizes
    steady = max(size.resident_bytes for size in middle)
    last = sizes[-1]
    growth = last.resident_bytes / steady - 1
    new_handles = last.handles - max(size.handles for size in middle)
    counts = {name: value for name, value in asdict(tally).items() if isinstance(value, int)}
    held = (
        tally.served > 0
        and not (tally.wrong or tally.errors_5xx or tally.lost)
        and same_after
        and growth < MAX_GROWTH
        and new_handles <= MAX_NEW_HANDLES
    )
    return {
        "command": "python -m benchmarks.studies.soak " + " ".join(sys.argv[1:]),
        "flags": " ".join(FLAGS),
        "machine": {"processor": platform.machine(), "cores": psutil.cpu_count()},
        "minutes": minutes,
        "clients": CLIENTS,
        "capacity": CAPACITY,
        "distinct_pictures": DISTINCT,
        "distinct_answers": distinct_answers,
        "requests": sum(counts.values()),
        **counts,
        "latency_s": quantiles(tally.latencies_s),
        "refusal_s": quantiles(tally.refusals_s),
        "resident_mib": {
            "start": sizes[0].resident_bytes >> 20,
            "middle_max": steady >> 20,
            "end": last.resident_bytes >> 20,
        },
        "handles": {"start": sizes[0].handles, "end": last.handles},
        "same_answers_after": same_after,
        "examples_of_faults": dict(Counter(tally.examples).most_common(5)),
        "held": held,
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p95": round(ordered[int(len(ordered) * 0.95)], 3),
        "max": round(ordered[-1], 3),
    }


if __name__ == "__main__":
    sys.exit(main())
