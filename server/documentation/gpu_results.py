"""Blocks about GPUs, from committed results."""

from __future__ import annotations

from collections import Counter
from typing import Any

from phi_vision.planning.gpus import named_gpu

from documentation.results import read_result
from documentation.tables import table


def check_cuda() -> str:
    """What vLLM's CUDA build makes of the starts that the plan offers: for each card a row."""
    found = read_result("check_cuda.json")
    rows = [
        (named_gpu(card).name, *_counts(of["starts"]), *_default(of["starts"][0]))
        for card, of in found["cards"].items()
    ]
    head = (
        "card | starts | not offered | refused | traced | without flags: weights | KV cache | context "
        "| attention | picture tower | CUDA graphs"
    )
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("vllm", "torch", "transformers"))
    return f"{table(head, rows)}\n\n{_untraced(found['cards'])}{versions}."


def _counts(starts: list[dict[str, Any]]) -> tuple[int, int, int, int]:
    not_offered, refused = (sum(key in row for row in starts) for key in ("not_offered", "error"))
    traced = sum(row.get("traced", "").endswith("pieces") for row in starts)
    return len(starts) - not_offered, not_offered, refused, traced


def _untraced(cards: dict[str, Any]) -> str:
    """Why starts that compile were not traced."""
    why = Counter(
        (named_gpu(card).name, row["traced"].removeprefix("not: "))
        for card, of in cards.items()
        for row in of["starts"]
        if row.get("traced", "").startswith("not: ")
    )
    said = "; ".join(f"{count} on {card} ({reason})" for (card, reason), count in why.items())
    return f"Not traced: {said}.\n\n" if said else ""


def _default(start: dict[str, Any]) -> list[str]:
    if "not_offered" in start:
        return ["not offered", "", "", "", "", ""]
    names = ("attention", "vision_attention", "cuda_graphs")
    return [
        start["weights"],
        start["kv_dtype"],
        f"{start['max_model_len']:,}",
        *(start[name] for name in names),
    ]
