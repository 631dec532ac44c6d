"""What a request that says nothing gets: the model card's sampling, whatever a checkpoint's own file says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.spec import PHI_3_5_VISION
from transformers import AutoTokenizer

from tests.support.stub_server import ROUTES, StubServer, ask, running_stub


@pytest.fixture(scope="module")
def sampling_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubServer]:
    """A stub on a checkpoint that says how to sample, and not that `<|end|>` ends an answer."""
    folder = tmp_path_factory.mktemp("sampling")
    shutil.copytree(DEMO_FOLDER, folder / "model")
    own = {"do_sample": True, "temperature": 0.7, "top_k": 5, "eos_token_id": 707}
    (folder / "model" / "generation_config.json").write_text(json.dumps(own))
    names = ("--served-model-name", "phi-3.5-vision-demo")
    with running_stub(folder, "--model", str(folder / "model"), "--max-model-len", "16384", *names) as stub:
        yield stub


def sampling(stub: StubServer, path: str, **more: Any) -> dict[str, Any]:
    response = ask(stub, path, "Hello", **more)
    assert response.status_code == 200, response.text
    return stub.requests[-1]["sampling"]


@pytest.mark.parametrize("path", ROUTES)
def test_greedy_and_ended_by_the_models_own_tokens(sampling_checkpoint: StubServer, path: str) -> None:
    ends = AutoTokenizer.from_pretrained(DEMO_FOLDER).convert_tokens_to_ids(list(PHI_3_5_VISION.stop_tokens))
    silent = sampling(sampling_checkpoint, path)
    assert silent["temperature"] == 0
    end_of_text = 707  # the tokenizer's own, which vLLM keeps apart
    assert {*silent["stop_token_ids"], end_of_text} == set(ends)
    assert sampling(sampling_checkpoint, path, temperature=0.5)["temperature"] == 0.5


def test_who_ignores_the_end_gets_none(sampling_checkpoint: StubServer) -> None:
    assert sampling(sampling_checkpoint, "/v1/completions", ignore_eos=True)["stop_token_ids"] == []
