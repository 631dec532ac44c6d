"""`x-phi-vision-rope` on every route of the real API process, with a stub for the engine."""

from __future__ import annotations

import httpx
import pytest
from phi_vision.model.rope_mode import HEADER, modes

from tests.support.stub_server import ROUTES, StubServer, ask


def usage_of(response: httpx.Response) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["completion_tokens"]
    return usage["input_tokens"], usage["output_tokens"]


@pytest.mark.parametrize("path", ROUTES)
def test_the_modes_of_an_answer(stub: StubServer, path: str) -> None:
    """Whatever `max_tokens` says, which is the rest of the context or much of it."""
    of_template = usage_of(ask(stub, path, "x" * 3000))[0] - 3000
    for prompt, expected in ((3000, "short"), (4092, "short,long"), (5000, "long")):
        text = "x" * (prompt - of_template)
        whole = ask(stub, path, text)
        tokens = usage_of(whole)
        assert tokens[0] == prompt
        assert whole.headers[HEADER] == ",".join(modes(*tokens)) == expected
        # The head of a stream is sent when it starts.
        assert ask(stub, path, text, stream=True).headers[HEADER] == expected.split(",")[0]


def test_prompts_and_choices_of_one_request_are_named_together(stub: StubServer) -> None:
    assert ask(stub, "/v1/completions", ["x" * 50, "x" * 5000]).headers[HEADER] == "short,long"
    assert ask(stub, "/v1/completions", ["x" * 5000, "x" * 6000]).headers[HEADER] == "long"
    choices = ask(stub, "/v1/completions", "x" * 4090, n=3, temperature=1)
    assert len(choices.json()["choices"]) == 3
    assert choices.headers[HEADER] == "short,long"


def test_errors_name_no_mode(stub: StubServer) -> None:
    response = ask(stub, "/v1/completions", "x", max_tokens=-1)
    assert response.status_code == 400
    assert HEADER not in response.headers


def test_the_length_of_an_answer_is_left_alone(stub: StubServer) -> None:
    """It used to be cut at the end of the window where nobody had asked for a length."""
    ask(stub, "/v1/chat/completions", "x" * 3000)
    request = stub.requests[-1]
    assert request["sampling"]["max_tokens"] == 16384 - len(request["prompt_token_ids"])
