"""A batch on the real engine, with OpenAI's unchanged SDK: the answers are those of requests one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch
from prometheus_client.parser import text_string_to_metric_families

from tests.support.pictures import image_part, user
from tests.support.serving import eventually, running_server

IMAGES = Path(__file__).parents[1] / "images"
NAMES = ("sign.png", "receipt.jpg", "shapes.png")


def body(name: str) -> dict[str, Any]:
    return {
        "model": "phi-3.5-vision:ocr",
        "messages": [{"role": "user", "content": [image_part((IMAGES / name).read_bytes())]}],
        "max_tokens": 24,
    }


def create(client: openai.OpenAI, bodies: dict[str, dict[str, Any]]) -> Batch:
    asked = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in bodies.items()
    ]
    data = "\n".join(map(json.dumps, asked)).encode()
    file = client.files.create(file=("requests.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def answers(client: openai.OpenAI, batch: Batch) -> dict[str, str]:
    """Once it is done."""
    eventually(lambda: client.batches.retrieve(batch.id).status == "completed")
    content = client.files.content(str(client.batches.retrieve(batch.id).output_file_id)).text
    lines = map(json.loads, content.splitlines())
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}


def test_pictures_in_a_batch(client: openai.OpenAI) -> None:
    in_batch = answers(client, create(client, {name: body(name) for name in NAMES}))
    alone = {name: client.chat.completions.create(**body(name)) for name in NAMES}
    assert in_batch == {name: answer.choices[0].message.content for name, answer in alone.items()}


@pytest.mark.full
@pytest.mark.slow
def test_one_of_two_api_processes_runs_a_batch(tmp_path: Path) -> None:
    flags = ("--model", "demo", "--max-model-len", "4096", "--api-server-count", "2")
    with running_server(tmp_path / "log.txt", *flags) as server:
        bodies = {
            str(n): {"model": "phi-3.5-vision", "messages": [user(f"{n}?")], "max_tokens": 4}
            for n in range(10)
        }
        batches = []
        for _ in range(6):  # each over a connection of its own, to either process
            with server.client() as client:
                batches.append(create(client, bodies))
        for batch in batches:
            with server.client() as client:
                assert set(answers(client, batch)) == set(bodies)
        metrics = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
        samples = [sample for family in metrics for sample in family.samples]
        done = sum(sample.value for sample in samples if sample.name == "vllm:request_success_total")
        assert done == len(batches) * len(bodies)  # none was asked twice
