"""The README's table of what fits on which GPU, as `phi-vision plan` says.

python benchmarks/context_table.py [GPU ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

GPUS = ("a10", "l4", "4090", "a100-40", "a100-80", "h100")


def plan(gpu: str) -> dict[str, Any]:
    """`phi-vision plan` of a named GPU at the default context."""
    command = [sys.executable, "-m", "phi_vision", "plan", "--gpu", gpu, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # 2: nothing fits
    return json.loads(done.stdout)


def main() -> None:
    """Print it as markdown."""
    bodies = {gpu: plan(gpu) for gpu in sys.argv[1:] or GPUS}
    settings = [
        (p["weights"], p["kv_dtype"])
        for p in next(iter(bodies.values()))["plans"]
        if p["profile"] != "faithful"
    ]
    short = [f"{weights}, {kv.removesuffix('_per_token_head')}" for weights, kv in settings]
    print("| GPU | GiB | " + " | ".join(short) + " | taken for 131,072 | pictures at once |")
    print("|---|---|" + "---|" * (len(short) + 2))
    for gpu, body in bodies.items():
        plans = {(p["weights"], p["kv_dtype"]): p for p in body["plans"] if p["profile"] != "faithful"}
        chosen = body["plans"][body["chosen"]] if body["chosen"] is not None else None
        longest = " | ".join(f"{plans[s]['longest_context']:,}" for s in settings)
        taken = "nothing fits | " if chosen is None else f"{_name(chosen)} | {chosen['pictures_at_once']}"
        print(f"| {gpu} | {body['device']['memory_bytes'] / 2**30:.1f} | {longest} | {taken} |")


def _name(chosen: dict[str, Any]) -> str:
    return f"`{chosen['profile']}`: {chosen['weights']}, {chosen['kv_dtype'].removesuffix('_per_token_head')}"


if __name__ == "__main__":
    main()
