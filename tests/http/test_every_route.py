"""Bad input on every route that works: refused by its field, before anything is tokenised or generated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest, ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)

from tests.support.mutations import FUZZ_FACTOR, FUZZ_RANDOM
from tests.support.stub_server import StubServer

CHAT = "/v1/chat/completions"
PICTURE = "data:image/png;base64,AAAA"
MODEL = "phi-3.5-vision"
HELLO = [{"role": "user", "content": "hello"}]
SMALL = {"max_tokens": 2}
# Path, the request's model, and the smallest request of each kind.
ROUTES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "chat": (CHAT, ChatCompletionRequest, {"messages": HELLO, **SMALL}),
    "batch": (f"{CHAT}/batch", BatchChatCompletionRequest, {"messages": [HELLO], **SMALL}),
    "completions": ("/v1/completions", CompletionRequest, {"prompt": "hello", **SMALL}),
    "responses": ("/v1/responses", ResponsesRequest, {"input": "hello", "max_output_tokens": 2}),
    "messages": ("/v1/messages", AnthropicMessagesRequest, {"model": MODEL, "messages": HELLO, **SMALL}),
    "count": (
        "/v1/messages/count_tokens",
        AnthropicCountTokensRequest,
        {"model": MODEL, "messages": HELLO},
    ),
    "invoked chat": ("/invocations", ChatCompletionRequest, {"messages": HELLO, **SMALL}),
    "invoked completion": ("/invocations", CompletionRequest, {"prompt": "hello", **SMALL}),
    "tokenize": ("/tokenize", TokenizeCompletionRequest, {"prompt": "hello"}),
    "tokenize chat": ("/tokenize", TokenizeChatRequest, {"messages": HELLO}),
    "detokenize": ("/detokenize", DetokenizeRequest, {"tokens": [5, 6]}),
}
GENERATING = [name for name in ROUTES if name not in ("count", "tokenize", "tokenize chat", "detokenize")]
OTHERS = [name for name in ROUTES if name not in ("chat", "responses")]


@pytest.fixture(scope="module")
def http(stub: StubServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stub.url) as client:
        yield client


def send(http: httpx.Client, path: str, body: dict[str, Any] | str) -> httpx.Response:
    text = body if isinstance(body, str) else json.dumps(body)
    return http.post(path, content=text.encode(), headers={"Content-Type": "application/json"})


def refusal(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 400, (answer.status_code, answer.text[:500])
    return answer.json()["error"]


@pytest.mark.parametrize("name", ROUTES)
def test_the_smallest_request_is_served(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    assert (answer := send(http, path, body)).status_code == 200, answer.text


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("field", ["top_k", "seed", "n", "priority", "made_up"])
@pytest.mark.parametrize("digits", ["18446744073709551616", "-" + "9" * 30, "9" * 5000])
def test_integers_beyond_64_bits(http: httpx.Client, name: str, field: str, digits: str) -> None:
    path, _, body = ROUTES[name]
    text = json.dumps(body)[:-1] + f', "{field}": {digits}}}'
    assert refusal(send(http, path, text))["param"] == field


def text_field(name: str) -> str | None:
    return next((field for field in ("messages", "prompt", "input") if field in ROUTES[name][2]), None)


FAULTS = [
    (name, fault)
    for name in ROUTES
    for fault in ("role", "text", "escapes")
    if text_field(name) == "messages" or (text_field(name) and fault != "role")
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_what_cannot_fit_reaches_neither_template_nor_tokenizer(
    http: httpx.Client, stub: StubServer, name: str, fault: str
) -> None:
    path, _, body = ROUTES[name]
    already = len(stub.requests)
    text = json.dumps(body)
    if fault == "role":
        text = text.replace("user", "/a" * 1_000_000)
    elif fault == "text":
        text = text.replace("hello", "words and more words " * 150_000)
    else:
        text = text.replace("hello", "\\n" * 5_000_000)
    error = refusal(send(http, path, text))
    # vLLM names `input_text` or `input_tokens`, after it has rendered and tokenised.
    assert error["param"].startswith(str(text_field(name))), error
    assert len(error["message"]) < 200 and len(stub.requests) == already


@pytest.mark.parametrize("name", ROUTES)
def test_an_unknown_model_with_a_long_name_costs_nothing(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    assert refusal(send(http, path, {**body, "model": "/a" * 100_000}))["param"] == "model"
    short = send(http, path, {**body, "model": "/a" * 450})
    assert short.status_code in (200, 404)  # /detokenize and others look at no model


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("task", ["caption", "ocr", "vqa"])
def test_tasks_are_refused_where_they_would_do_nothing(http: httpx.Client, name: str, task: str) -> None:
    path, _, body = ROUTES[name]
    by_name = refusal(send(http, path, {**body, "model": f"{MODEL}-demo:{task}"}))
    assert by_name["param"] == "model" and CHAT in by_name["message"]
    by_field = refusal(send(http, path, {**body, "task": task}))
    assert by_field["param"] == "task" and CHAT in by_field["message"]


IGNORED = [
    ("messages", {"repetition_detection": {"max_pattern_size": 3, "min_pattern_size": 1, "min_count": 2}}),
    ("messages", {"mm_processor_kwargs": {"num_crops": 1}}),
    ("messages", {"seed": 1}),
    ("completions", {"mm_processor_kwargs": {"num_crops": 1}}),
    ("responses", {"min_tokens": 1}),
    ("completions", {"chat_template_kwargs": {"a": 1}}),
]


@pytest.mark.parametrize(("name", "fields"), IGNORED)
def test_fields_of_the_chat_route_are_not_ignored_elsewhere(
    http: httpx.Client, name: str, fields: dict[str, Any]
) -> None:
    path, _, body = ROUTES[name]
    (field,) = fields
    error = refusal(send(http, path, body | fields))
    assert error["param"] == field and CHAT in error["message"]


def test_responses_take_no_multimodal_kwargs(http: httpx.Client) -> None:
    path, _, body = ROUTES["responses"]
    refusal(send(http, path, body | {"mm_processor_kwargs": {"num_crops": 1}}))


def test_repeated_defaults_are_no_wish(http: httpx.Client) -> None:
    path, _, body = ROUTES["messages"]
    repeated = {"ignore_eos": False, "logprobs": False, "n": 1, "stop": None, "task": None}
    assert send(http, path, body | repeated).status_code == 200


@pytest.mark.parametrize("name", ["tokenize chat", "count"])
def test_a_whole_request_can_be_counted(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    assert send(http, path, body | {"max_tokens": 5, "temperature": 0.5, "seed": 1}).status_code == 200
    refusal(send(http, path, body | {"mm_processor_kwargs": {"num_crops": 1}}))


@pytest.mark.parametrize("detail", ["low", "high"])
def test_detail_is_refused_where_it_would_do_nothing(http: httpx.Client, detail: str) -> None:
    part = {"type": "image_url", "image_url": {"url": PICTURE, "detail": detail}}
    chat = {"messages": [{"role": "user", "content": [part]}]}
    for path in ("/invocations", "/tokenize"):
        assert refusal(send(http, path, chat))["param"] == "messages[0].content[0].image_url.detail"
    item = {"type": "input_image", "image_url": PICTURE, "detail": detail}
    responses = {"input": [{"role": "user", "content": [item]}]}
    assert refusal(send(http, "/v1/responses", responses))["param"] == "input[0].content[0].detail"


@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages", "invoked chat"])
@pytest.mark.parametrize("key", ["kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode"])
def test_reserved_extra_arguments(http: httpx.Client, name: str, key: str) -> None:
    path, _, body = ROUTES[name]
    error = refusal(send(http, path, {**body, "vllm_xargs": {key: "x"}}))
    assert error["param"] == f"vllm_xargs.{key}"
    assert send(http, path, {**body, "vllm_xargs": {"harmless": "x"}}).status_code == 200


@pytest.mark.parametrize("name", GENERATING)
def test_transfers_need_a_connector(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    sent = {**body, "kv_transfer_params": {"do_remote_prefill": True}}
    assert refusal(send(http, path, sent))["param"] == "kv_transfer_params"


@pytest.mark.parametrize("name", ["chat", "completions", "invoked chat"])
def test_a_grammar_and_allowed_tokens_exclude_each_other(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    body = {**body, "allowed_token_ids": [5]}
    for grammar in ({"structured_outputs": {"choice": ["a"]}}, {"response_format": {"type": "json_object"}}):
        assert refusal(send(http, path, body | grammar))["param"] == "allowed_token_ids"
    assert send(http, path, body | {"response_format": {"type": "text"}}).status_code == 200


@pytest.mark.parametrize("name", GENERATING)
def test_a_priority_beyond_64_bits_in_the_header(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    answer = http.post(path, json=body, headers={"X-Vllm-Priority": "9" * 30})
    assert refusal(answer)["param"] == "x-vllm-priority"


def test_scaling_that_is_not_set_up_is_no_fault_of_the_server(http: httpx.Client) -> None:
    refusal(send(http, "/scale_elastic_ep", {"new_data_parallel_size": 2}))


def test_structured_outputs_must_be_an_object(http: httpx.Client) -> None:
    for name in ("chat", "completions", "invoked chat"):
        path, _, body = ROUTES[name]
        assert refusal(send(http, path, body | {"structured_outputs": 5}))["param"] == "structured_outputs"


def test_items_of_no_known_kind_are_found_one_by_one(http: httpx.Client) -> None:
    items = [{"role": "user", "content": "hello"}, *[{"a": 1}] * 1000]
    assert refusal(send(http, "/v1/responses", {"input": items}))["param"] == "input[1]"


@pytest.mark.parametrize("name", ROUTES)
def test_a_field_whose_name_no_encoding_takes_is_refused(http: httpx.Client, name: str) -> None:
    path, _, body = ROUTES[name]
    assert "\\ud800" in refusal(send(http, path, body | {"tools": {"\ud800": 10**30}}))["param"]


# Random values ------------------------------------------------------------------------------------

INTEGERS = st.sampled_from(
    [0, 1, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30]
)
STRANGE = st.sampled_from(
    ["", "x", "\x00", "\ud800", "1e5", "-1", "null", "\x1b[2J", "/a" * 3000, "\U0001f600" * 99]
)
SCALARS = st.none() | st.booleans() | INTEGERS | st.integers() | st.floats() | STRANGE | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(STRANGE | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
ADDED = ["vllm_xargs", "logit_bias", "stop", "bad_words", "prompt_logprobs", "truncate_prompt_tokens", "echo"]


@pytest.mark.parametrize("name", ROUTES)
def test_random_fields_are_served_or_refused(http: httpx.Client, name: str) -> None:
    path, model, body = ROUTES[name]
    fields = sorted({*model.model_fields, *ADDED})

    @settings(
        max_examples=60 * FUZZ_FACTOR,
        deadline=None,
        derandomize=not FUZZ_RANDOM,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.dictionaries(st.sampled_from(fields), VALUES, min_size=1, max_size=2))
    def check(changes: dict[str, Any]) -> None:
        answer = send(http, path, body | changes)
        assert answer.status_code < 500 or answer.status_code in (501, 503), (changes, answer.text[:500])

    check()


@pytest.mark.parametrize("name", ROUTES)
def test_each_field_takes_or_refuses_each_strange_number(http: httpx.Client, name: str) -> None:
    path, model, body = ROUTES[name]
    for field in sorted({*model.model_fields, *ADDED}):
        for value in (2**63, 2**64, -(2**63) - 1, float("nan"), 1e308, -1, [2**63], {"5": 2**63}, ["x"], ""):
            answer = send(http, path, {**body, field: value})
            assert answer.status_code < 500 or answer.status_code == 501, (field, value, answer.text[:500])
