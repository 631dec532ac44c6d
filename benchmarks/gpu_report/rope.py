"""LongRoPE per request on a GPU: a served model with random weights against `TextReference` of the tests.

The reference computes in float32 on the CPU by the original's rule. Each answer is also compared with what
the other factors would have said: the distance between the two says how much a wrong mode would show.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.gpu_report.findings import Findings, preemptions, token_ids
from benchmarks.harness.servers import Server
from tests.support.text_reference import TextReference

_Rows = list[dict[str, Any]]
_Request = tuple[list[int], int]  # prompt, tokens of the answer

# (prompt, answer) in tokens: all in one batch, which the cache does not hold at once.
_TOGETHER = ((50, 16), (3000, 16), (4080, 64), (4095, 64), (4096, 16), (5000, 16), (9000, 16))
_ALONE = ((4080, 64), (3000, 16), (5000, 16))
# Let in together, they outgrow the cache: vLLM must drop one and compute it anew, its answer as prompt.
_GROWING = ((5512, 600), (5512, 600), (3848, 600), (3208, 600), (1672, 600), (520, 600))


def compare(server: Server, findings: Findings) -> None:
    """Note the figures of each request to this server, and the sum of it all."""
    reference = TextReference(Path(str(server.checkpoint)))
    prompts = {n: token_ids(n, seed) for seed, n in enumerate(p for p, _ in _TOGETHER)}
    batches = {
        "together": [(prompts[n], tokens) for n, tokens in _TOGETHER],
        "alone": [(token_ids(n, 99), tokens) for n, tokens in _ALONE],
        "again, from the prefix cache": [(prompts[n], tokens) for n, tokens in _TOGETHER[:4]],
        "outgrowing the cache": [
            ([1, 260 + i, *token_ids(n, i)[2:]], tokens) for i, (n, tokens) in enumerate(_GROWING)
        ],
    }
    if not findings.gpu:
        batches = {"together": batches["together"][1:3]}  # a rehearsal
    every: _Rows = []
    for name, batch in batches.items():
        began, before = time.monotonic(), preemptions(server.url)
        with ThreadPoolExecutor(len(batch) if name != "alone" else 1) as pool:
            answers = list(pool.map(lambda request: _complete(server, *request), batch))
        served_s, preempted = time.monotonic() - began, preemptions(server.url) - before
        rows = [_compare_one(reference, *pair) for pair in zip(batch, answers, strict=True)]
        every += rows
        findings.note(
            f"{server.label}: {name}",
            {"served_s": round(served_s, 2), "preemptions": preempted, "requests": rows},
        )
    findings.note(f"{server.label}: sum", _sum(every))


def _sum(rows: _Rows) -> dict[str, Any]:
    worst = max(row["logprob_off"] for row in rows)
    apart = [row["logprob_off_other_factors"] for row in rows if row["prompt"] >= 1000]
    return {
        "requests": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "crossed_the_window": sum(row["factors"] == ["short", "long"] for row in rows),
        "modes_right": all(row["mode_right"] for row in rows),
        "logprob_off_worst": worst,
        "logprob_off_median": sorted(row["logprob_off_median"] for row in rows)[len(rows) // 2],
        "greedy_off_worst": max(row["greedy_off"] for row in rows),
        "logprob_off_other_factors_least": min(apart),
        "right": all(row["mode_right"] for row in rows) and worst < min(apart) / 2,
    }


def _complete(server: Server, prompt: list[int], tokens: int) -> dict[str, Any]:
    body = {
        "model": server.models[0]["id"],
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "ignore_eos": True,
    }
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=600)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
    said = answer.json()["choices"][0]["logprobs"]
    return {
        "ids": [int(token.removeprefix("token_id:")) for token in said["tokens"]],
        "logprobs": torch.tensor(said["token_logprobs"]),
        "mode": answer.headers.get("x-phi-vision-rope"),
    }


def _compare_one(reference: TextReference, request: _Request, answer: dict[str, Any]) -> dict[str, Any]:
    prompt, _ = request
    ids = answer["ids"]
    expected, factors = reference.answer_logprobs(prompt, ids)
    places = range(len(ids))
    of_rule = expected[places, ids]
    modes = list(dict.fromkeys(factors))
    # The other factors, on the part of the answer that has the mode with more tokens.
    main = max(modes, key=factors.count)
    steps = [i for i in places if factors[i] == main]
    other = reference.logprobs(prompt + ids[:-1], len(ids), "long" if main == "short" else "short")
    off = (answer["logprobs"] - of_rule).abs()
    return {
        "prompt": len(prompt),
        "tokens": len(ids),
        "factors": modes,
        "mode": answer["mode"],
        "mode_right": answer["mode"] == ",".join(modes),
        "logprob_off": round(off.max().item(), 6),
        "logprob_off_median": round(off.median().item(), 6),
        "greedy_off": round((expected.max(-1).values - of_rule).max().item(), 6),
        "logprob_off_other_factors": round(
            (other[places, ids] - answer["logprobs"]).abs()[steps].max().item(), 6
        ),
    }
