"""What each step of the GPU report asks of its servers. Runs in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Any

import httpx
from phi_vision.model.geometry import num_image_tokens
from phi_vision.spec import PHI_3_5_VISION
from PIL import Image

from benchmarks.gpu_report.findings import Findings, preemptions, token_ids
from benchmarks.harness.servers import ROOT, Server, attach
from benchmarks.harness.workloads import WORKLOADS, fixed_length, image_part, requests, text_part

_IMAGES = ROOT / "tests" / "images"
_LETTERS = "qxz"  # which the stand-in tokenizer never joins: a token each
_SHORT_S = 60  # for an answer of some tokens


def run_step(ask: str, urls: Mapping[str, str], path: Path, *, gpu: bool) -> None:
    """Do one of `STEPS`; what is found goes to `path` as it is found."""
    servers = {label: attach(url, label) for label, url in urls.items()}
    STEPS[ask](Findings(servers, gpu, path))


def kernels(findings: Findings) -> None:
    """The kernels alone. On a CPU only those of the quantized caches, in Triton's interpreter."""
    if not findings.gpu:
        os.environ["TRITON_INTERPRET"] = "1"
    from benchmarks.gpu_report import kernels

    if findings.gpu:
        findings.attempt("kernels", kernels.check_kernels)
    device = "cuda" if findings.gpu else "cpu"
    findings.attempt("quantized caches", kernels.check_quantized_caches, device)


def serving(findings: Findings) -> None:
    """The default server: routes, answers about pictures, tokens by formula, the window, a long prompt."""
    (server,) = findings.servers.values()
    paths = ("health", "livez", "readyz", "metrics", "v1/models", "v1/tasks", "v1/plan")
    findings.attempt(
        "routes", lambda: {path: httpx.get(f"{server.url}/{path}").status_code for path in paths}
    )
    for task, picture, question in (
        ("caption", "scene.jpg", None),
        ("ocr", "invoice.png", None),
        ("vqa", "shapes.png", "What color is the circle?"),
    ):
        findings.attempt(task, _ask_about, server, task, _IMAGES / picture, question)
    findings.attempt("structured output", _choice, server)
    findings.attempt("across the window", _across_the_window, server)
    findings.attempt("long request", _long_request, server, 16)
    findings.attempt("readyz afterwards", _statuses, server, "readyz")


def long_request(findings: Findings) -> None:
    """A picture, then the longest request that the server has room for, up to 120,000 tokens."""
    (server,) = findings.servers.values()
    findings.attempt("ocr", _ask_about, server, "ocr", _IMAGES / "invoice.png")
    findings.attempt("long request", _long_request, server, 1)
    findings.attempt("readyz afterwards", _statuses, server, "readyz")


def rope(findings: Findings) -> None:
    """LongRoPE per request against the float32 reference; prompts of all lengths in one batch, then alone."""
    from benchmarks.gpu_report.rope import compare

    for server in findings.servers.values():
        findings.attempt(server.label, compare, server, findings)


def speed(findings: Findings) -> None:
    """Closed loops on each server in turns; every request has pictures of its own."""
    from benchmarks.gpu_report.load import closed_loop

    loads = (1, 8, 32, 4, 16, 2) if findings.gpu else (1, 2)
    cells = [(work, n) for n in loads for work in ("caption", "ocr", "vqa")] + [("first token", max(loads))]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = dict(zip(cells, pool.map(_draw, cells, repeat(findings.gpu)), strict=True))
    letters = {label: server.letter_tokens() for label, server in findings.servers.items()}

    def measure(server: Server, work: str, concurrency: int) -> dict[str, Any]:
        own = {"model": server.models[0]["id"], "allowed_token_ids": letters[server.label]}
        bodies = [body | own for body in drawn[work, concurrency]]
        cell = {"server": server.label, "work": work, "concurrency": concurrency}
        return cell | closed_loop(server.url, bodies, concurrency)

    for work, concurrency in cells:
        for server in findings.servers.values():
            name = f"{server.label}, {work}, {concurrency} at once"
            findings.attempt(name, measure, server, work, concurrency)


def picture_path(findings: Findings) -> None:
    """What the host does with a picture, on one core."""
    import torch

    from benchmarks.studies import image_path

    torch.set_num_threads(1)
    findings.note("pictures", [image_path.measure(name, 8) for name in image_path.PICTURES])


STEPS: dict[str, Callable[[Findings], None]] = {
    work.__name__: work for work in (kernels, serving, long_request, rope, speed, picture_path)
}


def _statuses(server: Server, *paths: str) -> dict[str, int]:
    return {path: httpx.get(f"{server.url}/{path}").status_code for path in paths}


def _post(url: str, body: dict[str, Any]) -> httpx.Response:
    answer = httpx.post(url, json=body, timeout=_SHORT_S)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
    return answer


def _ask_about(server: Server, task: str, picture: Path, question: str | None = None) -> dict[str, Any]:
    """One picture with all crops and with one: the difference in prompt tokens must be the formula's."""
    with Image.open(picture) as image:
        size, part = image.size, image_part(image.convert("RGB"), lossy=False)
    answers = {}
    for detail in ("high", "low"):
        content = [{**part, "image_url": {**part["image_url"], "detail": detail}}]
        content += [text_part(question)] if question else []
        messages = [{"role": "user", "content": content}]
        body = {"model": server.model_for(task), "messages": messages, "max_tokens": 24, "ignore_eos": True}
        answers[detail] = _post(f"{server.url}/v1/chat/completions", body)
    usage = {detail: answer.json()["usage"] for detail, answer in answers.items()}
    crops = {"high": PHI_3_5_VISION.num_crops, "low": 1}
    by_formula = {detail: num_image_tokens(*size, n) for detail, n in crops.items()}
    told = {detail: int(answer.headers["x-phi-vision-image-tokens"]) for detail, answer in answers.items()}
    difference = usage["high"]["prompt_tokens"] - usage["low"]["prompt_tokens"]
    choice = answers["high"].json()["choices"][0]
    return {
        "picture": picture.name,
        "pixels": list(size),
        "prompt_tokens": usage["high"]["prompt_tokens"],
        "completion_tokens": usage["high"]["completion_tokens"],
        "image_tokens": told,
        "right": told == by_formula and difference == by_formula["high"] - by_formula["low"],
        "finish_reason": choice["finish_reason"],
        "answer_is_text": isinstance(choice["message"]["content"], str),
        "rope": answers["high"].headers.get("x-phi-vision-rope"),
    }


def _choice(server: Server) -> dict[str, Any]:
    body = {
        "model": server.models[0]["id"],
        "messages": [{"role": "user", "content": "Yes or no?"}],
        "max_tokens": 16,
        "structured_outputs": {"choice": ["yes", "no"]},
    }
    answer = _post(f"{server.url}/v1/chat/completions", body).json()
    text = answer["choices"][0]["message"]["content"]
    return {"answer": text, "right": text in ("yes", "no")}


def _across_the_window(server: Server) -> dict[str, Any]:
    """A prompt just below 4,096 tokens whose answer grows past it: both modes, one preemption."""
    before = preemptions(server.url)
    body = {
        "model": server.models[0]["id"],
        "prompt": token_ids(PHI_3_5_VISION.short_window - 16),
        "max_tokens": 60,
        "ignore_eos": True,
    }
    answer = _post(f"{server.url}/v1/completions", body)
    usage = answer.json()["usage"]
    mode = answer.headers.get("x-phi-vision-rope")
    preempted = preemptions(server.url) - before
    right = mode == "short,long" and preempted == 1 and usage["completion_tokens"] == 60
    return {"rope": mode, "preemptions": preempted, "usage": usage, "right": right}


def _long_request(server: Server, pictures: int) -> dict[str, Any]:
    """Pictures and as much text as the context holds, up to 120,000 tokens in all; 32 tokens of answer."""
    from benchmarks.gpu_report.load import ask_all, between_tokens_s

    context = server.max_model_len or PHI_3_5_VISION.max_model_len
    wanted = min(120_000, context - 100)
    with Image.open(_IMAGES / "invoice.png") as image:
        part = image_part(image.convert("RGB"), lossy=False)
        crops = PHI_3_5_VISION.num_crops if pictures == 1 else PHI_3_5_VISION.num_crops_multi
        each = num_image_tokens(*image.size, crops)
    pictures = min(pictures, max(1, wanted // 2 // each))
    text = "".join(Random(35).choices(_LETTERS, k=max(16, wanted - pictures * each - 64)))
    body = {
        "model": server.models[0]["id"],
        "messages": [{"role": "user", "content": [*[part] * pictures, text_part(text)]}],
        "temperature": 0,
        **fixed_length(32, server.letter_tokens()),
    }
    (answer,) = ask_all(server.url, [body])
    return {
        "pictures": pictures,
        "context": context,
        "prompt_tokens": answer.prompt_len,
        "completion_tokens": answer.output_tokens,
        "ttft_s": round(answer.ttft, 3),
        "itl_ms": round(1000 * between_tokens_s(answer), 2),
        "prompt_tokens_per_s": round(answer.prompt_len / answer.ttft),
    }


def _draw(cell: tuple[str, int], gpu: bool) -> list[dict[str, Any]]:
    """Bodies of a cell: as many for the warm-up as are in flight, then what is counted."""
    work, concurrency = cell
    count = concurrency + (max(5, 2 * concurrency) if gpu else concurrency)
    name = "caption" if work == "first token" else work
    tokens = 1 if work == "first token" else WORKLOADS[name].output_tokens
    return list(requests(name, count, f"{work}-{concurrency}", "", fixed=fixed_length(tokens)))
