"""Two engines, each with the whole model, are one server to its clients."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from demo_training.pictures import HELD_OUT_WORDS, PRINT_EM, draw_text

from tests.support.pictures import image_part, user
from tests.support.scraped import scraped, total
from tests.support.serving import PATIENCE_S, Server, children, eventually, running_server

pytestmark = [pytest.mark.full, pytest.mark.slow]

MODEL = "phi-3.5-vision"
FLAGS = ("--model", "demo", "--max-model-len", "16384", "--dtype", "float32")  # equal in any batch
PAGES = [
    draw_text(
        random.Random(f"two-engines-{i}"), em=PRINT_EM, lines=(1, 1), max_chars=10, words=HELD_OUT_WORDS
    )
    for i in range(8)
]
ENGINES = ("0", "1")
CORES = sorted(map(str, os.sched_getaffinity(0)))
HALF = len(CORES) // 2


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_path = tmp_path_factory.mktemp("two_engines") / "log.txt"
    env = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(part) for part in (CORES[:HALF], CORES[HALF:]))}
    with running_server(log_path, *FLAGS, "--data-parallel-size", "2", env=env) as server:
        yield server


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    answer = httpx.post(f"{server.url}{path}", json={"model": MODEL, **body}, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer


def read(server: Server, page: int) -> str:
    picture = image_part(PAGES[page].image, "low")
    answer = post(server, "/v1/chat/completions", model=f"{MODEL}:ocr", messages=[user(picture)])
    return str(answer.json()["choices"][0]["message"]["content"])


def test_each_picture_gets_its_own_answer_from_either_engine(two_engines: Server) -> None:
    pages = [*range(len(PAGES))] * 2
    with ThreadPoolExecutor(len(pages)) as pool:
        said = list(pool.map(lambda page: read(two_engines, page), pages))
    assert said[: len(PAGES)] == said[len(PAGES) :] and len(set(said)) == len(PAGES)
    assert sum(text == page.lines[0] for text, page in zip(said, PAGES, strict=False)) > len(PAGES) / 2
    found = scraped(two_engines.url)
    asked = [total(found, "vllm:prompt_tokens_total", engine=engine) for engine in ENGINES]
    assert all(asked), asked


def test_each_engine_changes_the_factors_at_the_window(two_engines: Server) -> None:
    draw = random.Random(4089)
    before = scraped(two_engines.url)

    def cross(number: int) -> str:
        prompt = [1, *(draw.randrange(260, 350) for _ in range(4089))]
        body = {"prompt": prompt, "max_tokens": 16, "ignore_eos": True}
        return str(post(two_engines, "/v1/completions", **body).headers["x-phi-vision-rope"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(cross, range(4))) == ["short,long"] * 4
    after = scraped(two_engines.url)
    for engine in ENGINES:
        name = "vllm:num_preemptions_total"  # the change is one
        assert total(after, name, engine=engine) > total(before, name, engine=engine)


def test_the_plan_is_that_of_each_engine(two_engines: Server) -> None:
    plan = httpx.get(f"{two_engines.url}/v1/plan").json()
    assert plan["actual"]["engines"] == 2
    assert plan["error_percent"] == 0


def test_an_engine_that_is_killed_ends_the_server(two_engines: Server) -> None:
    """The last test of this server."""
    family = psutil.Process(two_engines.process.pid).children(recursive=True)
    engine, _ = children(two_engines.process.pid, "EngineCore", recursive=True)
    body = {"model": MODEL, "prompt": "x", "max_tokens": 8000, "ignore_eos": True}

    def ask(_: int) -> int | None:
        try:
            return httpx.post(f"{two_engines.url}/v1/completions", json=body, timeout=PATIENCE_S).status_code
        except httpx.HTTPError:
            return None

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, n) for n in range(4)]
        eventually(lambda: total(scraped(two_engines.url), "vllm:num_requests_running") == 4)
        engine.kill()
        assert all(answer.result() != 200 for answer in answers)
    assert two_engines.process.wait(PATIENCE_S) == 3
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []
