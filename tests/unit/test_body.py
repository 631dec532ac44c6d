"""What a body may be: each bound at its edge, by the field at fault, with no server and no clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import phi_vision
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phi_vision.errors import RequestError
from phi_vision.serving.middleware.body import BodyLimits
from phi_vision.serving.middleware.text_bound import TokenBound
from phi_vision.serving.vllm_compat.error_messages import MAX_CHARS, bounded
from tokenizers import Tokenizer
from vllm.entrypoints.serve.exception_handling.utils import sanitize_message

CONTEXT = 1000
TOKENIZER = Tokenizer.from_file(str(Path(phi_vision.__file__).parent / "demo" / "tokenizer.json"))
BOUND = TokenBound(TOKENIZER.get_vocab())


@pytest.fixture
def bodies() -> BodyLimits:
    return BodyLimits(BOUND, CONTEXT)


def refused(bodies: BodyLimits, body: dict[str, Any] | str) -> RequestError:
    raw = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(RequestError) as caught:
        bodies.parse(raw.encode())
    assert caught.value.status == 400
    return caught.value


def chat(content: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


@pytest.mark.parametrize("digits", [str(2**64), str(-(2**63) - 1), "9" * 6000, "-" + "9" * 30])
def test_integers_beyond_64_bits_name_their_field(bodies: BodyLimits, digits: str) -> None:
    text = f'{{"messages": [{{"role": "user", "content": "x"}}], "top_k": {digits}}}'
    assert refused(bodies, text).param == "top_k"
    nested = f'{{"repetition_detection": {{"min_count": [1, {digits}]}}}}'
    assert refused(bodies, nested).param == "repetition_detection.min_count[1]"


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 0])
def test_integers_of_64_bits_pass(bodies: BodyLimits, value: int) -> None:
    assert bodies.parse(json.dumps(chat(seed=value)).encode())["seed"] == value


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know(bodies: BodyLimits, value: str) -> None:
    assert refused(bodies, f'{{"temperature": {value}}}').param == "temperature"


TOO_MUCH: dict[str, tuple[dict[str, Any], str | None]] = {
    "role": ({"messages": [{"role": "a" * 101, "content": "x"}]}, "messages[0].role"),
    "model": (chat(model="m" * 1001), "model"),
    "text": (chat("word " * 20_000), "messages[0].content"),
    "text in a part": (chat([{"type": "text", "text": "word " * 20_000}]), "messages[0].content[0].text"),
    "text of many messages": (
        {"messages": [{"role": "user", "content": "word " * (1000 + i)} for i in range(20)]},
        "messages[19].content",
    ),
    "prompt": ({"prompt": ["x", "word " * 20_000]}, "prompt[1]"),
    "responses": ({"input": "word " * 20_000}, "input"),
    "responses item": ({"input": [{"role": "user", "content": "word " * 20_000}]}, "input[0].content"),
    "anthropic system": ({"system": "word " * 20_000}, "system"),
    "characters without a token": (chat("\u4e2d" * 400), "messages[0].content"),
    "all prompts together": ({"prompt": ["x" * 16_000] * 256}, "prompt[0]"),
    "prompts": ({"prompt": ["x"] * 257}, "prompt"),
    "lists of ids": ({"prompt": [[5]] * 257}, "prompt"),
    "conversations": ({"messages": [[]] * 257}, "messages"),
    "request id": (chat(request_id="r" * 1001), "request_id"),
    "anything else": (chat(metadata={"a": "x" * 1_000_001}), "metadata"),
    "names": (chat(metadata={"x" * 1_000_001: 1}), "metadata"),
    "a picture that is none": (chat([{"type": "text", "text": "x", "data": "x" * 1_000_001}]), "messages"),
    "bad words": (chat(bad_words=["x" * 10_001] * 2), "bad_words"),
    "stop strings": (chat(stop=["x"] * 65), "stop"),
    "stop characters": (chat(stop="x" * 20_001), "stop"),
    "objects": (chat(tools=[[{}] * 1000] * 20), "tools"),
    "entries": ({"input": [{"a": 1}] * 1025}, "input"),
    "half a surrogate": (chat(["\ud800"]), "messages[0].content[0]"),
    "field's name": ({"x" * 101: 1}, None),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_refused_by_its_field(bodies: BodyLimits, name: str) -> None:
    body, param = TOO_MUCH[name]
    assert refused(bodies, body).param == param


BASE64 = "A" * 5_000_000
FITTING: dict[str, dict[str, Any]] = {
    "picture": chat([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}}]),
    "picture of responses": {"input": [{"role": "user", "content": [{"image_url": BASE64}]}]},
    "picture of messages": chat([{"type": "image", "source": {"type": "base64", "data": BASE64}}]),
    "batch of prompts": {"prompt": ["word " * 500] * 100},
    "batch of conversations": {"messages": [chat("word " * 500)["messages"]] * 100},
    "a context of ids": {"prompt": list(range(131_072))},
}


@pytest.mark.parametrize("name", FITTING)
def test_what_fits_passes(bodies: BodyLimits, name: str) -> None:
    assert bodies.parse(json.dumps(FITTING[name]).encode()) == FITTING[name]


WORDS = st.sampled_from(
    ["the ", "picture ", "   ", "\n", "\u4e2d", "\U0001f600", "<|end|>", "\u00e9", "triangles"]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(WORDS | st.text(max_size=5), max_size=60))
def test_a_text_never_has_fewer_tokens_than_the_bound(words: list[str]) -> None:
    text = "".join(words)
    assert BOUND.at_least(text) <= len(TOKENIZER.encode(text, add_special_tokens=False).ids)


def test_the_bound_is_no_weaker_than_the_longest_token() -> None:
    text = "words and words " * 1000
    assert BOUND.at_least(text) >= len(text) // max(map(len, TOKENIZER.get_vocab()))
    assert BOUND.at_least("\u4e2d\U0001f600") == 6  # 3 + 4 bytes, rounded down for the sum's precision


def test_messages_are_cut_before_vllm_looks_for_paths_in_them() -> None:
    seen: list[str] = []

    def sanitize(message: str) -> str:
        seen.append(message)
        return message

    answer = bounded(sanitize)("/a" * 1_000_000)
    assert [len(message) for message in seen] == [MAX_CHARS] and len(answer) < MAX_CHARS + 50
    assert bounded(sanitize)("short") == "short"
    assert sanitize_message("/home/someone/secret.py failed") == "<path> failed"
