"""Structured outputs over HTTP: what is refused, on every route, and that others are served meanwhile."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from phi_vision.errors import UsageError
from phi_vision.serving.launch import pin_grammar_backend

from tests.support.pictures import user
from tests.support.serving import children
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import StubServer

CHAT = "/v1/chat/completions"
HELLO = {"messages": [user("hello")]}
BAD = {"type": "string", "pattern": "\\"}


def constraint(**spec: Any) -> dict[str, Any]:
    return HELLO | {"structured_outputs": spec}


def response_format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def tag(structure: Any) -> dict[str, Any]:
    return HELLO | {"response_format": {"type": "structural_tag", "format": structure}}


RULES = "\n".join(f'r{i} ::= "x{i}" r{i + 1}' for i in range(100_000)) + '\nr100000 ::= "e"\nroot ::= r0'
LARK = "start: r0\n" + "\n".join(f'r{i}: "x{i}" r{i + 1}' for i in range(100_000)) + '\nr100000: "e"'
NESTED = {"type": "string", "pattern": "(((a{1,1000}){1,1000}){1,1000})"}
TEXT_FORMAT = {"input": "hi", "text": {"format": {"type": "json_schema", "name": "a", "schema": BAD}}}
OUTPUT_FORMAT = {"type": "json_schema", "schema": BAD}
OUTPUT_CONFIG = {**HELLO, "max_tokens": 2, "output_config": {"format": OUTPUT_FORMAT}}
MULTIPLE = {"type": "integer", "multipleOf": 3}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    # Of these three no context could hold the text, which is looked at first.
    "100,000 rules": (CHAT, constraint(grammar=RULES), "structured_outputs"),
    "100,000 rules in Lark": (CHAT, constraint(grammar=LARK), "structured_outputs"),
    "5 MB of regex": (CHAT, constraint(regex="a" * 5_000_000), "structured_outputs"),
    "130 KB of regex": (CHAT, constraint(regex="a" * 131_073), "structured_outputs.regex"),
    "nested repeats": (CHAT, HELLO | response_format(NESTED), "response_format"),
    "100,000 alternatives": (CHAT, constraint(regex="a|" * 100_000), "structured_outputs.regex"),
    "100,000 choices": (CHAT, constraint(choice=["x"] * 100_000), "structured_outputs.choice"),
    "no choice": (CHAT, constraint(choice=[]), "structured_outputs.choice"),
    "a backslash": (CHAT, constraint(regex="\\"), "structured_outputs.regex"),
    "a backslash, streamed": (CHAT, constraint(regex="\\") | {"stream": True}, "structured_outputs.regex"),
    "a rule that needs itself": (CHAT, constraint(grammar="root ::= root"), "structured_outputs.grammar"),
    "a schema that needs itself": (CHAT, HELLO | response_format({"$ref": "#"}), "response_format"),
    "a schema elsewhere": (CHAT, HELLO | response_format({"$ref": "http://host/x"}), "response_format"),
    "what xgrammar does not know": (CHAT, HELLO | response_format(MULTIPLE), "response_format"),
    "an option without effect": (
        CHAT,
        constraint(choice=["a"], whitespace_pattern=" "),
        "structured_outputs.whitespace_pattern",
    ),
    "beam search": (CHAT, constraint(choice=["a"]) | {"use_beam_search": True, "n": 2}, "use_beam_search"),
    "a tag": (CHAT, tag({"type": "regex", "pattern": "\\"}), "response_format"),
    "a tag that is none": (CHAT, tag({"type": "nothing"}), "response_format"),
    "a tag out of bounds": (CHAT, tag({"type": "json_schema", "json_schema": NESTED}), "response_format"),
    "batch": (
        f"{CHAT}/batch",
        {"messages": [HELLO["messages"]] * 2, "structured_outputs": {"regex": "\\"}},
        "structured_outputs.regex",
    ),
    "completions": (
        "/v1/completions",
        {"prompt": ["a", "b"], "structured_outputs": {"regex": "\\"}},
        "structured_outputs.regex",
    ),
    "completions, streamed": (
        "/v1/completions",
        {"prompt": "a", "stream": True} | response_format(BAD),
        "response_format",
    ),
    "completions, beam search": (
        "/v1/completions",
        {"prompt": "a", "use_beam_search": True, "n": 2} | response_format(BAD),
        "use_beam_search",
    ),
    "responses": ("/v1/responses", TEXT_FORMAT, "text.format"),
    "responses, streamed": ("/v1/responses", TEXT_FORMAT | {"stream": True}, "text.format"),
    "messages": ("/v1/messages", OUTPUT_CONFIG, "output_config.format"),
    "messages, streamed": ("/v1/messages", OUTPUT_CONFIG | {"stream": True}, "output_config.format"),
    "invocations": ("/invocations", constraint(regex="\\"), "structured_outputs.regex"),
}

TAKEN: dict[str, dict[str, Any]] = {
    "regex": constraint(regex=r"\d+"),
    "choice": constraint(choice=['say "a|b"', "\\", "\n"]),
    "grammar": constraint(grammar='root ::= root "," "a" | "a"'),
    "Lark": constraint(grammar='start: "a" b*\nb: /[0-9]+/'),
    "schema": HELLO | response_format({"type": "object", "properties": {"a": {"type": "integer"}}}),
    "object": HELLO | {"response_format": {"type": "json_object"}},
    "text": HELLO | {"response_format": {"type": "text"}},
    "tag": tag({"type": "json_schema", "json_schema": {"type": "string"}}),
}


def post(stub: StubServer, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(stub.url + path, json={"model": "phi-3.5-vision"} | body, timeout=300)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_its_field(stub: StubServer, name: str) -> None:
    path, body, field = REFUSED[name]
    before = len(stub.requests)
    answer = post(stub, path, body)
    assert answer.status_code == 400, answer.text[:500]
    error = answer.json()["error"]
    assert error["param"] == field and error["message"] and len(answer.text) < 2000
    assert len(stub.requests) == before


@pytest.mark.parametrize("name", TAKEN)
def test_reaches_the_engine_once_tried(stub: StubServer, name: str) -> None:
    answer = post(stub, CHAT, TAKEN[name])
    assert answer.status_code == 200, answer.text
    spec = stub.requests[-1]["sampling"]["structured_outputs"]
    if name == "text":
        assert spec is None
    else:
        # Not vLLM's class: so nothing was compiled in this process.
        assert spec.startswith("TriedSpec(") and "_backend='xgrammar'" in spec


def test_a_trial_holds_up_only_its_own_request(stub: StubServer) -> None:
    assert post(stub, CHAT, constraint(regex="first")).status_code == 200
    (process,) = children(stub.process.pid, "phi_vision.serving.grammars.trial_process")
    with ThreadPoolExecutor(4) as threads:
        process.send_signal(signal.SIGSTOP)
        try:
            waiting = [
                threads.submit(post, stub, CHAT, constraint(regex="second")),
                threads.submit(post, stub, CHAT, constraint(regex="\\d\\") | {"stream": True}),
            ]
            for _ in range(3):
                assert post(stub, CHAT, HELLO).json()["choices"][0]["message"]["content"] == ANSWER
                assert post(stub, CHAT, constraint(regex="first")).status_code == 200  # its verdict is kept
            assert not any(request.done() for request in waiting)
        finally:
            process.send_signal(signal.SIGCONT)
        assert [request.result().status_code for request in waiting] == [200, 400]


def test_the_sdk_gets_its_own_error_before_a_stream(stub: StubServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stub.client().chat.completions.create(
            model="phi-3.5-vision",
            messages=[user("hello")],
            stream=True,
            extra_body={"structured_outputs": {"regex": "("}},
        )
    assert caught.value.param == "structured_outputs.regex"


def test_what_was_not_tried_goes_no_further() -> None:
    from phi_vision.serving.vllm_compat.structured_outputs import TriedSpec, _require_trial
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams

    _require_trial(SamplingParams(), None, None, None)
    _require_trial(SamplingParams(structured_outputs=TriedSpec(regex="a")), None, None, None)
    untried = SamplingParams(structured_outputs=StructuredOutputsParams(regex="a"))
    with pytest.raises(VLLMValidationError, match="not supported on this route"):
        _require_trial(untried, None, None, None)


def test_another_backend_is_refused() -> None:
    from phi_vision.serving.vllm_compat.structured_outputs import install

    chosen = SimpleNamespace(backend="auto")
    pin_grammar_backend(chosen)
    assert chosen.backend == "xgrammar"
    with pytest.raises(UsageError, match="--structured-outputs-config"):
        pin_grammar_backend(SimpleNamespace(backend="guidance"))
    config = SimpleNamespace(structured_outputs_config=SimpleNamespace(backend="guidance"))
    with pytest.raises(RuntimeError, match="xgrammar"):
        install(SimpleNamespace(vllm_config=config))


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("json", {"tools": [{}], "tool_choice": "required", "response_format": {"type": "x"}}, "tools"),
        ("json", {"tools": [{}], "tool_choice": {"type": "tool", "name": "a"}}, "tools"),
        ("json", {"tools": [{}], "response_format": {"type": "json_schema"}}, "response_format"),
        ("json", {"response_format": {"type": "text"}}, "structured_outputs.json"),
        ("json", {"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ("regex", {"response_format": {"type": "json_object"}}, "structured_outputs.regex"),
        ("regex", {"sampling_params": {}}, "sampling_params.structured_outputs.regex"),
    ],
)
def test_fields(kind: Any, body: dict[str, Any], field: str) -> None:
    from phi_vision.serving.middleware.grammar_errors import field_of

    assert field_of(kind, json.loads(json.dumps(body))) == field
