"""The programs that are measured beside ours, and the front end of those that have no server."""

from __future__ import annotations

import argparse
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from phi_vision.model.dimensions import read_config_json
from phi_vision.planning.checkpoint import DEMO_FOLDER
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from benchmarks.harness import peers
from benchmarks.harness.servers import ServerError, free_port
from benchmarks.peers import checkpoint, front_end
from benchmarks.peers.front_end import Usage
from tests.support.random_weights import write_random_checkpoint
from tests.support.text_reference import TextReference


def two_words(body: Mapping[str, Any]) -> Iterator[str | Usage]:
    if body["max_tokens"] > 2:
        raise ValueError("two words at most")
    yield "one"
    yield " two"
    yield Usage(5, 2)


@pytest.fixture(scope="module")
def served() -> str:
    port = free_port()
    model = {"id": "words", "object": "model"}
    threading.Thread(target=front_end.serve, args=(model, two_words, port), daemon=True).start()
    with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
        assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200
    return f"http://127.0.0.1:{port}"


def test_the_front_end_streams_as_openai_does(served: str) -> None:
    assert httpx.get(f"{served}/v1/models").json()["data"] == [{"id": "words", "object": "model"}]
    body = {"messages": [], "max_tokens": 2, "stream": True}
    answer = httpx.post(f"{served}/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert answer.headers["content-type"] == "text/event-stream" and events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]] == ["one", " two"]
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/chat/completions", {"stream": True, "max_tokens": 3}, 500, "ValueError: two words at most"),
        ("/v1/chat/completions", {"stream": False}, 400, "stream: must be true"),
        ("/v1/completions", {}, 404, "no /v1/completions here"),
    ],
)
def test_the_front_end_says_what_is_wrong(
    served: str, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    answer = httpx.post(served + path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"] == {"message": words, "code": status}


def test_the_checkpoint_has_the_published_tensors() -> None:
    """The demo has them in small."""
    with safe_open(DEMO_FOLDER / "model.safetensors", "pt") as file:
        demo = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert dict(checkpoint.shapes(read_config_json(DEMO_FOLDER))) == demo


@pytest.mark.parametrize("name", ["vllm", "mistralrs", "transformers"])
def test_each_peer_is_started_on_the_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, Any] = {}

    def note(command: list[str], log_path: Path, **more: Any) -> None:
        started.update(more, command=command)

    monkeypatch.setattr(peers, "ServerProcess", note)
    flags = ["--dtype", "float32"]
    (tmp_path / "preprocessor_config.json").write_text('{"num_crops": 4}')
    setting = peers.Setting(
        "a-python", "its-python", str(tmp_path), 4096, gpu=False, num_crops=4, flags=flags
    )
    peers.PEERS[name].launch(setting, tmp_path / "log")
    command = started["command"]
    assert command[0] == ("its-python" if name == "mistralrs" else "a-python")
    assert command[command.index("--model") + 1] == str(tmp_path)
    assert command[command.index("--port") + 1] == str(started["port"])
    assert (command[-2:] == flags) == (name == "vllm")


def test_mistralrs_takes_its_crops_from_the_checkpoint(tmp_path: Path) -> None:
    setting = peers.Setting("python", "python", str(tmp_path), 4096, gpu=False, num_crops=4)
    with pytest.raises(ServerError, match="no num_crops"):
        peers.PEERS["mistralrs"].launch(setting, tmp_path / "log")
    (tmp_path / "preprocessor_config.json").write_text('{"num_crops": 16}')
    with pytest.raises(ServerError, match="which says 16"):
        peers.PEERS["mistralrs"].launch(setting, tmp_path / "log")


def test_whom_to_measure_against() -> None:
    assert peers.parse_names("vllm,mistralrs,http://host:1") == ["vllm", "mistralrs", "http://host:1"]


@pytest.mark.parametrize("text", ["sglang", "vllm,vllm", "http://a,http://b", ""])
def test_whom_it_does_not_know(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        peers.parse_names(text)


@pytest.mark.full
def test_transformers_computes_the_same_model(tmp_path: Path) -> None:
    from benchmarks.peers.eager_phi3v import EagerPhi3V

    folder = write_random_checkpoint(tmp_path)
    model, tokenizer = EagerPhi3V(folder, "cpu"), PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": "user", "content": "Which month has the highest bar?"}]
    with torch.inference_mode():
        prompt = model.embed({"messages": messages}, tokenizer, num_crops=4)
        answer = list(itertools.islice(model.generate(prompt), 6))
        letters = list(itertools.islice(model.generate(prompt, allowed=[70, 71]), 6))
    ids = tokenizer("<|user|>\nWhich month has the highest bar?<|end|>\n<|assistant|>\n").input_ids
    assert prompt.shape[1] == len(ids) and set(letters) <= {70, 71}
    logprobs, _ = TextReference(folder).answer_logprobs(ids, answer)
    chosen = logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0]
    assert (logprobs.max(-1).values - chosen).max() < 0.1  # bfloat16 may prefer the next best
